"""Ollama's Modelfile for a GGUF file, filled from the file itself.

FROM       relative, so that the folder can be moved
PARAMETER  num_ctx: the context the header declares; stop: tokens of the vocabulary;
           sampling: what the header recommends (general.sampling.*), else what the makers
           of the chat family publish
TEMPLATE   the chat family's, where the file's own template prints the same prompts
SYSTEM, LICENSE  if given
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..chat.families import REASONS, Match, families, family, recognise
from ..chat.ollama import Capabilities, lost, of_go, of_jinja
from ..chat.vocabulary import Vocabulary, chat_template
from ..errors import FormatError
from ..ggufio.types import Header

#: Header key below general.sampling → Ollama's PARAMETER.
SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
}
#: What Ollama accepts behind PARAMETER (docs/modelfile.md), besides `stop` and `num_ctx`.
PARAMETERS = frozenset(
    {
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty",
        "presence_penalty", "frequency_penalty", "seed", "num_predict", "num_keep", "num_ctx",
        "mirostat", "mirostat_eta", "mirostat_tau", "tfs_z", "draft_num_predict",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Chat:
    """How a model talks: its family, what Ollama will say of it, and where Ollama differs.

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
            file=header.path, expected=wanted.name, found=found,
            hint=f"Write the family's template first: ggsurgery template set --family "
            f"{wanted.name} IN OUT",
        )  # fmt: skip
    if match is None or not match.usable:
        notes = (
            "No built-in family prints this model's prompts, so the Modelfile has no TEMPLATE: "
            "Ollama runs the chat template in the GGUF itself (older versions cannot).",
        )
        return Chat(None, None, of_jinja(jinja), (), notes)
    return _described(match, jinja, vocabulary)


def _described(match: Match, jinja: str | None, vocabulary: Vocabulary) -> Chat:
    go = _with_insert(match.family.go, vocabulary)
    gone = () if jinja is None else lost(jinja, go)
    notes = []
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
    return Chat(match, go, of_go(go), gone, tuple(notes))


def _with_insert(go: str, vocabulary: Vocabulary) -> str:
    """Add fill-in-the-middle where the header declares its three tokens."""
    marks = vocabulary.fill_in
    if marks is None:
        return go
    pre, suffix, middle = marks
    insert = f"{pre}{{{{ .Prompt }}}}{suffix}{{{{ .Suffix }}}}{middle}"
    return f"{{{{- if .Suffix }}}}{insert}{{{{ else }}}}{go}{{{{ end }}}}"


def stop_tokens(vocabulary: Vocabulary, chat: Chat) -> tuple[str, ...]:
    """The texts that end an answer: declared ends and the family's, if the vocabulary has them."""
    wanted = (*vocabulary.end_tokens, *(chat.match.family.stop if chat.match else ()))
    return tuple(t for t in dict.fromkeys(wanted) if vocabulary.is_special(t))


def parameters_of(
    header: Header, chat: Chat, given: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The sampling parameters: those given, else the header's, else the family's.

    Raises:
        FormatError: a parameter that Ollama does not know, or that is no number.
    """
    found: dict[str, float] = {}
    context = header.get("{arch}.context_length")
    if isinstance(context, int) and context > 0:
        found["num_ctx"] = context
    declared = {name: header.get(f"general.sampling.{key}") for key, name in SAMPLING.items()}
    declared = {name: value for name, value in declared.items() if value is not None}
    published = dict(chat.match.family.parameters) if chat.match else {}
    found |= {name: _rounded(value) for name, value in (declared or published).items()}
    check_parameters(given or {})
    return found | dict(given or {})


def check_parameters(given: Mapping[str, float]) -> None:
    """Refuse what Ollama would not take behind PARAMETER.

    Raises:
        FormatError: a parameter that Ollama does not know, or that is no number.
    """
    for name, value in given.items():
        if name not in PARAMETERS:
            raise FormatError(f"Ollama knows no PARAMETER {name}",
                              expected=f"one of {', '.join(sorted(PARAMETERS))}")  # fmt: skip
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise FormatError(f"PARAMETER {name}", expected="a number", found=repr(value))


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
        parameters: overrides of what the header and the family say.
        system: a SYSTEM prompt. license: the text behind LICENSE.

    Raises:
        FormatError: a text holds the three quotes that end it.
    """
    vocabulary = Vocabulary.of(header)
    known = families()
    name = chat.match.family.name if chat.match else "plain"
    lines = []
    for key, value in parameters_of(header, chat, parameters).items():
        whole = isinstance(value, int) or value.is_integer()  # Ollama reads no 1e+06
        lines.append(f"PARAMETER {key} {int(value) if whole else format(value, 'g')}")
    for text in stop_tokens(vocabulary, chat):
        lines.append(f'PARAMETER stop "{text}"')
    filled = known[name].modelfile
    if chat.go is None:
        start = filled.index('TEMPLATE """')
        filled = filled[:start] + filled[filled.index("@SYSTEM@") :]
    else:
        filled = filled.replace(known[name].go, chat.go)
    blocks = {
        "@FROM@": f"./{from_}",
        "@PARAMETERS@": "\n".join(lines),
        "@SYSTEM@": _quoted("SYSTEM", system),
        "@LICENSE@": _quoted("LICENSE", license),
    }
    first, _, rest = filled.partition("\nFROM")
    title = first.splitlines()[0] if chat.go is not None else "# The chat template is in the GGUF."
    filled = f"{title}\nFROM{rest}"
    # all at once: a text may hold what looks like a mark
    filled = re.sub("|".join(blocks), lambda match: blocks[match[0]], filled)
    return "\n".join(_without_blank_ends(filled)) + "\n"


def _without_blank_ends(text: str) -> list[str]:
    return text.rstrip("\n").splitlines()


def _quoted(word: str, text: str | None) -> str:
    if not text:
        return ""
    if '"""' in text:
        raise FormatError(f'{word} cannot hold """', found=text[:60])
    return f'{word} """{text.strip()}"""'
