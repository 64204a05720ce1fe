"""The built-in chat families, and which of them a template belongs to.

A template is recognised by its output, not by its source: it renders the trial conversations, as
does each family, and the family with the most identical prompts is chosen.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import FormatError, did_you_mean
from ..files.resources import shipped
from .conversations import BY_ID, CONVERSATIONS, TRIAL_DAY
from .render import TemplateError

#: Reasons why Ollama's form of a prompt can differ, as printed in a bundle's notes.
REASONS: dict[str, str] = {
    "joined": "Ollama joins messages of one role that follow each other into one turn.",
    "json": "Ollama writes tool descriptions and calls as compact JSON in its own order of keys, "
    "with <, > and & escaped; the model's template writes the caller's order with spaces.",
    "trim": "Ollama's template language cannot trim white space around a message.",
    "refusal": "The model's template refuses this conversation; Ollama's language cannot "
    "refuse and prints the messages as they come.",
}

#: Conversations of every ordinary chat; a template that differs here belongs to another family.
ORDINARY = frozenset({"single", "system", "turns", "non-ascii", "code", "prefix"})

_TEMPLATE = re.compile(r'^TEMPLATE """(.*?)"""$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Family:
    """A chat family: its template in Jinja (`jinja`) and for Ollama (`go`), and related settings.

    `differs` maps conversations whose prompt Ollama cannot give to a key of `REASONS`.
    """

    name: str
    title: str
    stop: tuple[str, ...]
    jinja: str
    modelfile: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)

    @property
    def go(self) -> str:
        """The TEMPLATE of the family's Modelfile, in Go's text/template."""
        found = _TEMPLATE.search(self.modelfile)
        if found is None:
            raise FormatError('no TEMPLATE """…"""', file=f"{self.name}.Modelfile")
        return found[1]


@dataclass(frozen=True)
class Match:
    """A family and how far a template agrees with it.

    Args:
        same: conversations with the same prompt (or refused by both).
        refused: conversations that the template refuses and the family prints.
        other: conversations with another prompt.
        dated: whether the template prints today's date.
    """

    family: Family
    same: tuple[str, ...]
    refused: tuple[str, ...]
    other: tuple[str, ...]
    dated: bool = False

    @property
    def exact(self) -> bool:
        """Whether every conversation has the same prompt."""
        return not self.other and not self.refused

    @property
    def usable(self) -> bool:
        """Whether the family can replace the template: ordinary conversations give the same
        prompt."""
        return not ORDINARY.intersection(self.other)


@lru_cache(maxsize=1)
def families() -> dict[str, Family]:
    """All built-in families by name."""
    data = Path(__file__).parent / "data"
    table: dict[str, Any] = tomllib.loads((data / "families.toml").read_text("utf-8"))
    modelfiles = shipped("Modelfile.templates")
    return {
        name: Family(
            name=name,
            title=entry["title"],
            stop=tuple(entry["stop"]),
            jinja=(data / f"{name}.jinja").read_text("utf-8"),
            modelfile=(modelfiles / f"{name}.Modelfile").read_text("utf-8"),
            parameters=entry.get("parameters", {}),
            differs=entry.get("differs", {}),
        )
        for name, entry in table.items()
    }


def family(name: str) -> Family:
    """A family by name.

    Raises:
        FormatError: the name is unknown; the message lists the nearest names.

    Example:
        >>> family("qwen3").stop
        ('<|im_end|>', '<|endoftext|>')
    """
    known = families()
    if name in known:
        return known[name]
    raise FormatError(
        f"no chat family {name!r}",
        expected=f"one of {', '.join(known)}",
        hint=did_you_mean(name, known, n=2, cutoff=0.4),
    )


def outcomes(template: str, *, bos_token: str = "", eos_token: str = "") -> dict[str, str | None]:
    """The prompt for every trial conversation; None if the template fails or refuses."""
    found: dict[str, str | None] = {}
    for conversation in CONVERSATIONS:
        try:
            found[conversation.id] = conversation.render(
                template, bos_token=bos_token, eos_token=eos_token
            )
        except TemplateError:
            found[conversation.id] = None
    return found


def recognise(template: str, *, bos_token: str = "", eos_token: str = "") -> Match | None:
    """The family that a Jinja template belongs to, None if it matches none.

    The simplest conversation (one question) must agree; beyond that the most agreements decide. A
    beginning-of-text token that only one of two prints makes no difference: the tokenizer adds it
    once in either case.
    """
    mine = _prompts(template, bos_token, eos_token)
    best: Match | None = None
    for candidate in families().values():
        theirs = _prompts(candidate.jinja, bos_token, eos_token)
        if mine["single"] is None or mine["single"] != theirs["single"]:
            continue
        same = tuple(i for i in mine if mine[i] == theirs[i])
        unlike = [i for i in mine if mine[i] != theirs[i]]
        if best is None or len(same) > len(best.same):
            refused = tuple(i for i in unlike if mine[i] is None)
            other = tuple(i for i in unlike if mine[i] is not None)
            best = Match(candidate, same, refused, other, _is_dated(template))
    return best


def _is_dated(template: str) -> bool:
    days = (TRIAL_DAY, TRIAL_DAY.replace(year=1999))
    try:
        first, second = (BY_ID["single"].render(template, now=day) for day in days)
    except TemplateError:
        return False
    return first != second


def _prompts(template: str, bos: str, eos: str) -> dict[str, str | None]:
    found = outcomes(template, bos_token=bos, eos_token=eos)
    if not bos:
        return found
    return {i: None if text is None else text.removeprefix(bos) for i, text in found.items()}
