"""The suite's own data: questions, openings, weights, all in files that a person can replace."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ...errors import FormatError
from ...files.text import MAX_SMALL, read_text
from ..questions import Question, load_questions, read_jsonl

DATA = Path(str(files("ggsurgery.measure") / "data"))

Length = Literal["default", "long"]

#: Parts of the score, in the order they are printed.
PARTS = ("facts", "coherence", "perplexity", "repetition", "thinking", "stop")


@dataclass(frozen=True, slots=True)
class Fact:
    """A factual question, the same as a sentence to complete, and its accepted answers."""

    id: str
    topic: str
    default: bool
    question: str
    cloze: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """Something to write about: as an instruction, and as the beginning of the text."""

    id: str
    instruction: str
    opening: str


@dataclass(frozen=True, slots=True)
class Weights:
    """The contents of a weights file; see data/weights.toml for what each field means."""

    weights: Mapping[str, float]
    bits_good: float
    bits_bad: float
    ngram: int
    distinct_bad: float
    ratio_good: float
    ratio_bad: float
    answer_tokens: int
    stop_tokens: int
    open_tokens: int
    thinking_tokens: int
    temperature: float
    seed: int
    source: str


def load_facts(length: Length = "default", path: Path = DATA / "facts.jsonl") -> list[Fact]:
    """The factual questions: the default set, or all of them.

    Raises:
        FormatError: a field is missing or of the wrong kind; names file, line and field.
    """
    found = []
    for number, item in read_jsonl(path):
        for field in ("id", "topic", "question", "cloze"):
            if not isinstance(item.get(field), str) or not item[field]:
                raise FormatError(f"line {number}: field {field}", file=path, expected="a text")
        answers = item.get("answers")
        if not isinstance(answers, list) or not answers or not all(map(_is_text, answers)):
            raise FormatError(
                f"line {number}: field answers", file=path, expected="a list of texts"
            )
        fact = Fact(
            item["id"],
            item["topic"],
            bool(item.get("default")),
            item["question"],
            item["cloze"],
            tuple(answers),
        )
        if fact.default or length == "long":
            found.append(fact)
    if not found:
        raise FormatError("no questions in it", file=path)
    return found


def load_openings(path: Path = DATA / "openings.jsonl") -> list[Opening]:
    """The prompts for open answers."""
    return [
        Opening(item["id"], item["instruction"], item["opening"]) for _, item in read_jsonl(path)
    ]


def load_coherence(path: Path = DATA / "coherence.jsonl") -> list[Question]:
    """Openings with one sensible and three senseless continuations."""
    return load_questions(path)


def load_prose(path: Path = DATA / "prose.txt") -> str:
    """The text whose bits per byte are measured."""
    return read_text(path)


def load_weights(path: str | Path | None = None) -> Weights:
    """Read a weights file, the package's own if none is given.

    Raises:
        FormatError: not TOML, a missing or negative figure, or an unknown part.
    """
    file = Path(path) if path is not None else DATA / "weights.toml"
    try:
        data = tomllib.loads(read_text(file, MAX_SMALL))
    except (ValueError, RecursionError) as error:  # no TOML, or a number of many digits
        raise FormatError(f"not a weights file: {error}", file=file) from error
    for name, section in data.items():
        if not isinstance(section, dict):
            raise FormatError(
                "weights file", file=file, tensor=name, expected="a section", found=section
            )
    weights = data.get("weights", {})
    unknown = sorted(set(weights) - set(PARTS))
    if unknown:
        raise FormatError(f"unknown part {unknown[0]!r}", file=file, expected=", ".join(PARTS))
    parts = {name: _figure(file, data, "weights", name) for name in PARTS if name in weights}
    if sum(parts.values()) <= 0:
        raise FormatError("the weights sum to nothing", file=file, tensor="weights")

    def figure(section: str, name: str) -> float:
        return _figure(file, data, section, name)

    if figure("perplexity", "bits_good") == figure("perplexity", "bits_bad"):
        raise FormatError(
            "weights file",
            file=file,
            tensor="perplexity.bits_bad",
            expected="another figure than bits_good",
            found=figure("perplexity", "bits_bad"),
        )

    return Weights(
        weights=parts,
        bits_good=figure("perplexity", "bits_good"),
        bits_bad=figure("perplexity", "bits_bad"),
        ngram=int(figure("repetition", "ngram")),
        distinct_bad=figure("repetition", "distinct_bad"),
        ratio_good=figure("repetition", "ratio_good"),
        ratio_bad=figure("repetition", "ratio_bad"),
        answer_tokens=int(figure("budgets", "answer")),
        stop_tokens=int(figure("budgets", "stop")),
        open_tokens=int(figure("budgets", "open")),
        thinking_tokens=int(figure("budgets", "thinking")),
        temperature=figure("generation", "temperature"),
        seed=int(figure("generation", "seed")),
        source=file.name if path is None else str(path),
    )


def _figure(file: Path, data: Mapping[str, Any], section: str, name: str) -> float:
    value = data.get(section, {}).get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise FormatError(
            "weights file",
            file=file,
            tensor=f"{section}.{name}",
            expected="a figure of at least 0",
            found="nothing" if value is None else value,
        )
    return float(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
