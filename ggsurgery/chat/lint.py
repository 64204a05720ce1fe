"""Check a chat template by rendering every trial conversation and testing the results.

An `error` makes conversations go wrong, a `warning` limits what the template can be used
for or where, a `note` is worth knowing. Every finding names the conversation that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .conversations import BY_ID, CONVERSATIONS, Conversation
from .families import REASONS, Match, recognise
from .ollama import Capabilities, lost, of_jinja
from .render import TemplateError, compile_template, render
from .vocabulary import SPECIAL, Vocabulary

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check found; `conversation` is the trial that shows it, if one does."""

    level: Level
    check: str
    message: str
    conversation: str | None = None


@dataclass(frozen=True)
class Report:
    """All findings about a template, and what its trials show.

    Args:
        prompts: the template's output; None if it failed or refused.
        match: the built-in family that prints the same, if there is one.
        ollama: what Ollama reports for this template if the Modelfile has none.
    """

    findings: tuple[Finding, ...]
    prompts: dict[str, str | None]
    match: Match | None
    ollama: Capabilities

    @property
    def ok(self) -> bool:
        return not any(f.level == "error" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "family": self.match.family.name if self.match else None,
            "family_exact": bool(self.match and self.match.exact),
            "ollama_capabilities": list(self.ollama.names),
            "rendered": sorted(i for i, text in self.prompts.items() if text is not None),
            "findings": [asdict(f) for f in self.findings],
        }


def lint(template: str, vocabulary: Vocabulary | None = None) -> Report:
    """Check a template; with a vocabulary also whether its special tokens exist.

    Raises:
        TemplateError: the template does not compile.

    Example:
        >>> lint("{% for m in messages %}{{ m.content }}{% endfor %}").ok
        True
    """
    compile_template(template)
    bos = vocabulary.bos if vocabulary else "<s>"
    eos = vocabulary.eos if vocabulary else "</s>"
    findings: list[Finding] = []
    prompts: dict[str, str | None] = {}
    for conversation in CONVERSATIONS:
        prompt, trouble = _try(template, conversation, bos, eos)
        prompts[conversation.id] = prompt
        findings += trouble
        if prompt is not None:
            findings += _missing(conversation, prompt)
    findings += _generation(template, bos, eos)
    findings += _thinking(template, prompts)
    if vocabulary is not None:
        findings += _tokens(prompts, vocabulary)
        findings += _end_of_turn(template, vocabulary)
    match = recognise(template, bos_token=bos, eos_token=eos)
    findings += _for_ollama(template, match)
    return Report(tuple(_joined(findings)), prompts, match, of_jinja(template))


def _try(
    template: str, conversation: Conversation, bos: str, eos: str
) -> tuple[str | None, list[Finding]]:
    """Render one trial; a tool call is tried with its arguments as an object and as text."""
    try:
        return conversation.render(template, bos_token=bos, eos_token=eos), []
    except TemplateError as error:
        as_text = _arguments_as_text(conversation)
        if as_text is not None and not error.refused:
            try:
                prompt = as_text.render(template, bos_token=bos, eos_token=eos)
            except TemplateError:
                pass
            else:
                message = "takes the arguments of tool calls as JSON text only, not as an object"
                return prompt, [Finding("note", "tool arguments", message, conversation.id)]
        # A template may refuse unusual conversations, but must handle a single question.
        may_refuse = error.refused and conversation.id != "single"
        level: Level = "warning" if may_refuse or conversation.needs else "error"
        word = "refuses" if error.refused else "fails on"
        message = f"{word} {conversation.what}: {error.problem}"
        return None, [Finding(level, "renders", message, conversation.id)]


def _arguments_as_text(conversation: Conversation) -> Conversation | None:
    if not any(m.get("tool_calls") for m in conversation.messages):
        return None
    messages = []
    for message in conversation.messages:
        calls = [
            {
                **c,
                "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"])},
            }
            for c in message.get("tool_calls", ())
        ]
        messages.append({**message, "tool_calls": calls} if calls else message)
    return replace(conversation, messages=tuple(messages))


def _missing(conversation: Conversation, prompt: str) -> Iterator[Finding]:
    """Parts of the conversation that are missing from the prompt."""
    for message in conversation.messages:
        text = (message.get("content") or "").strip()
        if text and text not in prompt and json.dumps(text, ensure_ascii=False) not in prompt:
            what = {"tool": "the result of a tool", "system": "a system message"}.get(
                message["role"], f"a message of the {message['role']}"
            )
            level: Level = "warning" if message["role"] in ("tool", "system") else "error"
            yield Finding(level, "says everything", f"drops {what}", conversation.id)
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in prompt:
                yield Finding("warning", "says everything", "drops tool calls", conversation.id)
    for tool in conversation.tools:
        if tool["function"]["description"] not in prompt:
            yield Finding("warning", "says everything", "drops the tools on offer", conversation.id)


def _generation(template: str, bos: str, eos: str) -> Iterator[Finding]:
    """add_generation_prompt must only add to the end, so that a cached prompt can be continued."""
    messages = BY_ID["turns"].messages
    try:
        without, behind = (
            render(template, messages, add_generation_prompt=on, bos_token=bos, eos_token=eos)
            for on in (False, True)
        )
    except TemplateError:
        return
    if without == behind:
        yield Finding("note", "generation prompt", "add_generation_prompt changes nothing", "turns")
    elif not behind.startswith(without):
        yield Finding(
            "note",
            "generation prompt",
            "add_generation_prompt does more than open the answer at the end of the prompt",
            "turns",
        )


def _thinking(template: str, prompts: dict[str, str | None]) -> Iterator[Finding]:
    on, off = prompts["thinking-on"], prompts["thinking-off"]
    if on is None or off is None:
        return
    if "enable_thinking" in template and on == off:
        yield Finding(
            "warning",
            "thinking",
            "names enable_thinking, yet switching it changes nothing",
            "thinking-off",
        )
    if "<think>" in template and on == off:
        yield Finding("note", "thinking", "thinking cannot be switched off", "thinking-off")


def _tokens(prompts: dict[str, str | None], vocabulary: Vocabulary) -> Iterator[Finding]:
    """Marks in the prompt that are not in the vocabulary: the model was not trained on them."""
    trial_text = "\n".join(
        str(value) for c in CONVERSATIONS for m in c.messages for value in m.values()
    )
    plain: dict[str, str] = {}
    for id, prompt in prompts.items():
        for mark in dict.fromkeys(SPECIAL.findall(prompt or "")):
            if mark in trial_text or vocabulary.is_special(mark):
                continue
            if mark.startswith(("<|", "<｜")):
                yield Finding(
                    "error", "special tokens", f"{mark} is not a token of this vocabulary", id
                )
            elif mark not in vocabulary.ids:
                plain.setdefault(mark, id)
        if vocabulary.bos and (prompt or "").startswith(vocabulary.bos) and vocabulary.adds_bos:
            yield Finding(
                "note",
                "beginning of text",
                f"prints {vocabulary.bos}, which the tokenizer adds as well; llama.cpp drops one",
                id,
            )
    if plain:
        message = f"plain text to this vocabulary, not tokens: {' '.join(plain)}"
        yield Finding("note", "special tokens", message, ", ".join(dict.fromkeys(plain.values())))


def _end_of_turn(template: str, vocabulary: Vocabulary) -> Iterator[Finding]:
    """An answer must be followed by a token that ends generation, or the model does not stop."""
    talk = [*BY_ID["single"].messages, {"role": "assistant", "content": "zyxwv"}]
    again = [*talk, {"role": "user", "content": "?"}]
    for messages in (talk, again):
        try:
            prompt = render(
                template,
                messages,
                add_generation_prompt=False,
                bos_token=vocabulary.bos,
                eos_token=vocabulary.eos,
            )
        except TemplateError:
            return
        mark = SPECIAL.match(prompt.rpartition("zyxwv")[2].lstrip())
        if mark is None:
            continue
        if mark[0] not in vocabulary.end_tokens:
            ends = ", ".join(vocabulary.end_tokens) or "none"
            yield Finding(
                "warning",
                "end of turn",
                f"an answer is followed by {mark[0]}, which the header does not declare as an "
                f"end (declared: {ends}): programs that rely on it generate without end",
            )
        return
    yield Finding(
        "note", "end of turn", "no special token follows an answer: a stop text is needed"
    )


def _for_ollama(template: str, match: Match | None) -> Iterator[Finding]:
    if match is None or not match.usable:
        yield Finding(
            "note",
            "ollama",
            "no built-in family prints this; a bundle leaves it to Ollama "
            "to run the Jinja template itself",
        )
        return
    for name in lost(template, match.family.go):
        yield Finding(
            "warning", "ollama", f"Ollama's form of the family {match.family.name} loses {name}"
        )
    for id in match.other:
        yield Finding(
            "note", "ollama", f"prints another prompt than the family {match.family.name}", id
        )
    for key in dict.fromkeys(match.family.differs.values()):
        ids = [i for i, reason in match.family.differs.items() if reason == key]
        yield Finding("note", "ollama", REASONS[key], ", ".join(ids))
    if match.dated:
        yield Finding("note", "ollama", "prints today's date; Ollama's form has a fixed one")


def _joined(findings: list[Finding]) -> Iterator[Finding]:
    """Equal findings combined, with all conversations that show them; worst first."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for f in findings:
        ids = groups.setdefault((f.level, f.check, f.message), [])
        if f.conversation:
            ids.append(f.conversation)
    for level in ("error", "warning", "note"):
        for (found, check, message), ids in groups.items():
            if found == level:
                yield Finding(level, check, message, ", ".join(dict.fromkeys(ids)) or None)
