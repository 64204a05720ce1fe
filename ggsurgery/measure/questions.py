"""Question files: JSON lines read with every field checked, and the prompts made of them.

Two forms of a line:

    {"id", "query", "choices": [...], "answer": 0-based index, "subject"?}
    {"id", "passage", "question", "answer": true or false}           (BoolQ)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..files.fields import kind_of
from ..files.text import lines


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its possible answers; `answer` is the index of the right one."""

    id: str
    query: str
    choices: tuple[str, ...]
    answer: int
    subject: str | None = None
    passage: str | None = None


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers; empty lines are passed over.

    Raises:
        FormatError: a line is not a JSON object, or the file is not UTF-8.
    """
    for number, raw in lines(path):
        if not raw.strip():
            continue
        try:
            value = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            json.dumps(value, ensure_ascii=False).encode()  # half a pair: \ud800
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a huge number
            raise FormatError(f"line {number} is not JSON: {error}", file=path) from error
        if not isinstance(value, dict):
            raise FormatError(
                f"line {number}", file=path, expected="a JSON object", found=kind_of(value)
            )
        yield number, value


def load_questions(path: str | Path, *, limit: int | None = None) -> list[Question]:
    """Read a question file, the first `limit` questions of it.

    Raises:
        FormatError: no question at all, or a field is missing, of the wrong kind or out of
            range; the message names file, line and field.
    """
    found: list[Question] = []
    seen: dict[str, int] = {}
    for number, item in read_jsonl(path):
        if limit is not None and len(found) >= limit:
            break
        question = _question(_Line(path, number, item))
        if question.id in seen:
            raise FormatError(
                f"line {number}: field id",
                file=path,
                expected="every id once",
                found=f"{question.id!r} as on line {seen[question.id]}",
            )
        seen[question.id] = number
        found.append(question)
    if not found:
        raise FormatError(
            "no questions in it", file=path, hint='A line is {"query", "choices", "answer"}'
        )
    return found


@dataclass(frozen=True, slots=True)
class _Line:
    """One object of a file, and how to complain about it."""

    path: str | Path
    number: int
    item: dict[str, Any]

    def wrong(self, field: str, expected: str, found: object) -> FormatError:
        return FormatError(
            f"line {self.number}: field {field}", file=self.path, expected=expected, found=found
        )

    def text(self, field: str) -> str:
        value = self.item.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(field, "a text", kind_of(value))
        return value


def _question(line: _Line) -> Question:
    item = line.item
    name = str(item.get("id", f"line-{line.number}"))
    subject = line.text("subject") if item.get("subject") is not None else None
    if "passage" in item:
        answer = item.get("answer")
        if not isinstance(answer, bool):
            raise line.wrong("answer", "true or false", kind_of(answer))
        query, passage = line.text("question"), line.text("passage")
        return Question(name, query, ("no", "yes"), int(answer), subject, passage)
    query = line.text("query")
    choices = item.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        raise line.wrong("choices", "a list of at least 2 texts", kind_of(choices))
    for i, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice:
            raise line.wrong(f"choices[{i}]", "a text", kind_of(choice))
    answer = item.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise line.wrong("answer", "a 0-based index", kind_of(answer))
    if not 0 <= answer < len(choices):
        raise line.wrong("answer", f"0 to {len(choices) - 1}", answer)
    return Question(name, query, tuple(choices), answer, subject)


@dataclass(frozen=True, slots=True)
class Prompted:
    """A question as the model sees it: for each choice a context and what continues it."""

    question: Question
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]


#: How a style words a question: its context, its choices as continuations, a solved example.
Wording = Callable[[Question], tuple[tuple[str, ...], tuple[str, ...]]]


def _plain(q: Question) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`query choice`: HellaSwag."""
    return (q.query,) * len(q.choices), tuple(f" {c}" for c in q.choices)


def _asked(q: Question) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`Question: query / Answer: choice`: PIQA, ARC."""
    context = f"Question: {q.query}\nAnswer:"
    return (context,) * len(q.choices), tuple(f" {c}" for c in q.choices)


def _letters(q: Question) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The choices listed as A, B, C …, the letter scored: MMLU."""
    letters = [chr(ord("A") + i) for i in range(len(q.choices))]
    lines = [q.query.strip(), *(f"{a}. {c}" for a, c in zip(letters, q.choices, strict=True))]
    context = "\n".join([*lines, "Answer:"])
    return (context,) * len(letters), tuple(f" {a}" for a in letters)


def _boolq(q: Question) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Passage, question, yes or no: BoolQ."""
    context = f"{q.passage}\nQuestion: {q.query}?\nAnswer:"
    return (context,) * len(q.choices), tuple(f" {c}" for c in q.choices)


def _blank(q: Question) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The blank `_` filled with a choice, the text behind it scored: WinoGrande."""
    at = q.query.index("_")
    rest = " " + q.query[at + 1 :].strip()
    return tuple(q.query[:at] + c for c in q.choices), (rest,) * len(q.choices)


STYLES: dict[str, Wording] = {
    "plain": _plain,
    "question": _asked,
    "letters": _letters,
    "boolq": _boolq,
    "blank": _blank,
}


def guess_style(questions: Sequence[Question]) -> str:
    """The style that the fields call for: boolq, blank, letters (with subjects), or plain."""
    if all(q.passage is not None for q in questions):
        return "boolq"
    if all(q.query.count("_") == 1 and len(q.choices) == 2 for q in questions):
        return "blank"
    return "letters" if all(q.subject for q in questions) else "plain"


def prompts(
    questions: Sequence[Question], style: str, *, shots: int = 0, examples: Sequence[Question] = ()
) -> list[Prompted]:
    """Word the questions, each behind `shots` solved examples.

    Examples are the first of `examples` in their order, of the question's own subject where
    questions have subjects, never the question itself. The pieces are joined as
    lm-evaluation-harness joins them (blank lines; MMLU's one-line description of the subject).

    Raises:
        FormatError: a style that does not suit the fields, or too few examples.
    """
    wording = STYLES[style]
    made = []
    for q in (*questions, *examples):
        if (style == "boolq") != (q.passage is not None) or (
            style == "blank" and "_" not in q.query
        ):
            raise FormatError(
                f"question {q.id}: style {style!r} does not suit its fields",
                expected="boolq for passages, blank for a `_` in the query, else another",
                found=guess_style([q]),
            )
    for q in questions:
        contexts, continuations = wording(q)
        before = _before(q, style, shots, examples)
        made.append(Prompted(q, tuple(before + c for c in contexts), continuations))
    return made


def _before(q: Question, style: str, shots: int, examples: Sequence[Question]) -> str:
    """The description and the solved examples in front of a question."""
    text = ""
    if style == "letters" and q.subject:
        topic = q.subject.replace("_", " ")
        text = f"The following are multiple choice questions (with answers) about {topic}.\n\n"
    if not shots:
        return text
    pool = [e for e in examples if e != q and (q.subject is None or e.subject == q.subject)]
    if len(pool) < shots:
        about = f" of subject {q.subject!r}" if q.subject else ""
        raise FormatError(
            f"question {q.id}: too few solved examples{about}",
            expected=shots,
            found=len(pool),
            hint="Give more with --from, or fewer --shots",
        )
    for e in pool[:shots]:
        contexts, continuations = STYLES[style](e)
        text += contexts[e.answer] + continuations[e.answer] + "\n\n"
    return text
