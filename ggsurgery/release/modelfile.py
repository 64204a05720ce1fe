"""Ollama's Modelfile for a GGUF file, filled from the file itself.

FROM       relative, so that the folder can be moved
PARAMETER  num_ctx: the context the header declares, at most DEFAULT_CONTEXT; stop: tokens of
           the vocabulary; sampling: what the header recommends (general.sampling.*), else
           what the makers of the chat family publish
TEMPLATE   the chat family's, where the file's own template prints the same prompts
SYSTEM, LICENSE  if given
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..chat.families import REASONS, Family, Match, families, family, recognise
from ..chat.ollama import Capabilities, lost, of_go, of_jinja
from ..chat.vocabulary import Vocabulary, chat_template
from ..errors import FormatError
from ..ggufio.types import Header
from .quoting import block, file_value, quoted

#: Header key below general.sampling → Ollama's PARAMETER.
SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
}
#: `num_ctx` where the model was trained with more and no other value is given: Ollama reserves the
#: cache of every token of it when the model is loaded.
DEFAULT_CONTEXT = 8192

#: Names that Ollama accepts after PARAMETER (docs/modelfile.md), besides `stop` and `num_ctx`.
PARAMETERS = frozenset(
    {
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_last_n",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "num_predict",
        "num_keep",
        "num_ctx",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "tfs_z",
        "draft_num_predict",
    }
)


@dataclass(frozen=True)
class Chat:
    """The chat settings of a model: its family, Ollama's predicted report, and Ollama's
    differences.

    Args:
        match: the built-in family; None leaves the template to Ollama.
        go: the TEMPLATE to write, None for none.
        capabilities: what Ollama is predicted to report.
        lost: capabilities of the file's own template that TEMPLATE lacks.
        notes: sentences for people, each one measured on the trial conversations.
    """

    match: Match | None
    go: str | None
    capabilities: Capabilities
    lost: tuple[str, ...]
    notes: tuple[str, ...]


def chat_of(header: Header, family_name: str | None = None) -> Chat:
    """Find the family of a file's chat template, or take the one that is named.

    Raises:
        FormatError: no family of that name; or the named family does not print the prompts
            that the file's own template prints for ordinary talk.
    """
    vocabulary = Vocabulary.of(header)
    jinja = chat_template(header)
    if jinja is None:
        plain = Match(family(family_name or "plain"), (), (), ())
        return _described(plain, None, vocabulary)
    match = recognise(jinja, bos_token=vocabulary.bos, eos_token=vocabulary.eos)
    if family_name is not None and (match is None or match.family.name != family_name):
        wanted = family(family_name)
        found = match.family.name if match else "none of the built-in ones"
        raise FormatError(
            "the file's chat template prints other prompts than this family",
            file=header.path,
            expected=wanted.name,
            found=found,
            hint=f"Write the family's template first: ggsurgery template set --family "
            f"{wanted.name} IN OUT",
        )
    if match is None or not match.usable:
        note = (
            "No built-in family prints this model's prompts, so the Modelfile has no TEMPLATE: "
            "Ollama runs the chat template in the GGUF itself (older versions cannot)."
        )
        notes = (note, *_stop_notes(vocabulary, None))
        return Chat(None, None, of_jinja(jinja), (), notes)
    return _described(match, jinja, vocabulary)


def _described(match: Match, jinja: str | None, vocabulary: Vocabulary) -> Chat:
    go = _with_insert(match.family.go, vocabulary)
    gone = () if jinja is None else lost(jinja, go)
    notes = []
    if vocabulary.fill_in is not None and go == match.family.go:
        notes.append("TEMPLATE has no fill-in-the-middle: it cannot hold the texts of its tokens.")
    for key in dict.fromkeys(match.family.differs.values()):
        ids = [i for i, reason in match.family.differs.items() if reason == key]
        notes.append(f"{REASONS[key]} (shown by: {', '.join(ids)})")
    if match.other or match.refused:
        unlike = ", ".join((*match.other, *match.refused))
        notes.append(
            f"The GGUF's own template differs from the family {match.family.name} on: {unlike}."
        )
    if match.dated:
        notes.append("The GGUF's template prints today's date, TEMPLATE a fixed one.")
    if gone:
        notes.append(
            f"TEMPLATE loses what the GGUF's template offers: {', '.join(gone)}. Ollama may "
            "prefer the GGUF's template for that reason."
        )
    return Chat(match, go, of_go(go), gone, (*notes, *_stop_notes(vocabulary, match.family)))


def _with_insert(go: str, vocabulary: Vocabulary) -> str:
    """Add fill-in-the-middle where the header declares its three tokens.

    A token's text must mean itself to Ollama's parser and to Go's templates.
    """
    marks = vocabulary.fill_in
    if marks is None or any(re.search(r'["\r\n]|\{\{|\}\}', m) or not quoted(m) for m in marks):
        return go
    pre, suffix, middle = marks
    insert = f"{pre}{{{{ .Prompt }}}}{suffix}{{{{ .Suffix }}}}{middle}"
    return f"{{{{- if .Suffix }}}}{insert}{{{{ else }}}}{go}{{{{ end }}}}"


def stop_tokens(vocabulary: Vocabulary, chat: Chat) -> tuple[str, ...]:
    """The texts that end an answer: declared ends and the family's, if the vocabulary has them."""
    wanted = _ends(vocabulary, chat.match.family if chat.match else None)
    return tuple(t for t in wanted if quoted(t) is not None)


def _ends(vocabulary: Vocabulary, of: Family | None) -> tuple[str, ...]:
    wanted = (*vocabulary.end_tokens, *(of.stop if of else ()))
    return tuple(t for t in dict.fromkeys(wanted) if vocabulary.is_special(t))


def _stop_notes(vocabulary: Vocabulary, of: Family | None) -> tuple[str, ...]:
    return tuple(
        f"The Modelfile has no stop for the end token {text!r}: its syntax cannot hold that text."
        for text in _ends(vocabulary, of)
        if quoted(text) is None
    )


def parameters_of(
    header: Header, chat: Chat, given: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The sampling parameters: those given, else the header's, else the family's.

    Raises:
        FormatError: a parameter that Ollama does not know, or that is not a number.
    """
    found: dict[str, float] = {}
    context = _trained_context(header)
    if context:
        found["num_ctx"] = min(context, DEFAULT_CONTEXT)
    declared = {name: header.get(f"general.sampling.{key}") for key, name in SAMPLING.items()}
    declared = {name: value for name, value in declared.items() if _is_number(value)}
    published = dict(chat.match.family.parameters) if chat.match else {}
    found |= {name: _rounded(value) for name, value in (declared or published).items()}
    check_parameters(given or {})
    return found | dict(given or {})


def check_parameters(given: Mapping[str, float]) -> None:
    """Refuse what Ollama would not take behind PARAMETER.

    Raises:
        FormatError: a parameter that Ollama does not know, or that is not a number.
    """
    for name, value in given.items():
        if name not in PARAMETERS:
            raise FormatError(
                f"Ollama has no PARAMETER {name}",
                expected=f"one of {', '.join(sorted(PARAMETERS))}",
            )
        if not _is_number(value):
            raise FormatError(f"PARAMETER {name}", expected="a number", found=repr(value))


def context_note(header: Header, given: Mapping[str, float] | None = None) -> str | None:
    """Why `num_ctx` is less than the model was trained with; None where it is not."""
    context = _trained_context(header)
    if "num_ctx" in (given or {}) or context <= DEFAULT_CONTEXT:
        return None
    return (
        f"The context (num_ctx) is ggsurgery's default of {DEFAULT_CONTEXT:,} tokens; the model "
        f"was trained with {context:,}, but Ollama reserves memory for every token of it"
    )


def _trained_context(header: Header) -> int:
    context = header.get("{arch}.context_length")
    return context if isinstance(context, int) and context > 0 else 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rounded(value: float) -> float:
    """0.6 as it was meant, not 0.6000000238 as a float32 stores it."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def modelfile(
    header: Header,
    chat: Chat,
    from_: str | Path,
    *,
    parameters: Mapping[str, float] | None = None,
    system: str | None = None,
    license: str | None = None,
) -> str:
    """The text of a Modelfile.

    Args:
        from_: the GGUF file, relative to the Modelfile.
        parameters: overrides of the header's and the family's settings.
        system: a SYSTEM prompt. license: the text after LICENSE.

    Raises:
        FormatError: a text holds the three quotes that end it.
    """
    vocabulary = Vocabulary.of(header)
    written = families()[chat.match.family.name if chat.match else "plain"]
    lines = []
    if note := context_note(header, parameters):
        lines.append(f"# {note}.")
    for key, value in parameters_of(header, chat, parameters).items():
        whole = isinstance(value, int) or value.is_integer()  # Ollama reads no 1e+06
        lines.append(f"PARAMETER {key} {int(value) if whole else format(value, 'g')}")
    lines += [f"PARAMETER stop {quoted(text)}" for text in stop_tokens(vocabulary, chat)]
    filled = written.modelfile.replace(f'TEMPLATE """{written.go}"""', "@TEMPLATE@")
    if chat.go is None:
        filled = filled.replace("@TEMPLATE@\n", "")
    blocks = {
        "@FROM@": file_value(str(from_)),
        "@PARAMETERS@": "\n".join(lines),
        "@TEMPLATE@": block("TEMPLATE", chat.go or ""),
        "@SYSTEM@": block("SYSTEM", system.strip()) if system else "",
        "@LICENSE@": block("LICENSE", license.strip()) if license else "",
    }
    first, _, rest = filled.partition("\nFROM")
    title = first.splitlines()[0] if chat.go is not None else "# The chat template is in the GGUF."
    filled = f"{title}\nFROM{rest}"
    # all at once: a text may hold what looks like a mark
    filled = re.sub("|".join(blocks), lambda match: blocks[match[0]], filled)
    return filled.rstrip("\n") + "\n"
