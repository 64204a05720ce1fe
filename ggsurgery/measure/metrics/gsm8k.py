"""Word problems with a number as the answer (GSM8K), solved by greedy generation.

A line is {"id", "question", "answer", "final"}: `answer` is a worked solution that ends in
`#### number`, `final` that number alone; one of the two suffices. Wording, stop strings and the
rule for the answer's number follow lm-evaluation-harness (gsm8k, `flexible-extract`: the last
number in the output).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import FormatError
from ...files.progress import Progress
from ...runtime.engine import Engine
from ...runtime.generation import generate_together
from ...runtime.vocabulary import Vocabulary
from ..draw import SEED, draw
from ..meter import Meter, Model
from ..questions import read_jsonl
from ..results.score import Score, mean_score
from ..setup import Setup

STOP = ("Question:", "</s>", "<|im_end|>")
MAX_TOKENS = 256
#: Problems solved side by side: reading the weights once a token serves them all.
TOGETHER = 8

_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem and the number that is right."""

    id: str
    question: str
    final: str


class GSM8KMeter(Meter[list[Problem]]):
    """Items are 1 where a problem was solved."""

    def read(self, setup: Setup) -> list[Problem]:
        assert setup.data is not None
        return draw_problems(load_problems(setup.data), setup.limit, setup.limit_seed)

    def measure(self, model: Model, data: list[Problem], progress: Progress | None = None) -> Score:
        with model.vocabulary() as vocabulary:
            n_ctx = room(vocabulary, data)
        with model.engine(n_ctx, n_seq=min(TOGETHER, len(data)), unified=False) as engine:
            right = [float(r) for r in solve(engine, data, progress=progress)]
        found, ids = mean_score(self.row.name, right), [p.id for p in data]
        return self.made(found.value, found.stderr, found.n, right, ids, {"chance": 0.0})


def draw_problems(
    problems: Sequence[Problem], limit: int | None, seed: int = SEED
) -> list[Problem]:
    """At most `limit` of the problems."""
    return draw(problems, limit, seed=seed, name=lambda p: p.id)


def load_problems(path: str | Path, *, limit: int | None = None) -> list[Problem]:
    """Read a file of problems, the first `limit` of it.

    Raises:
        FormatError: none at all, or a field is missing; names file, line and field.
    """
    found: list[Problem] = []
    for number, item in read_jsonl(path):
        if limit is not None and len(found) >= limit:
            break
        question = item.get("question")
        if not isinstance(question, str) or not question.strip():
            raise FormatError(f"line {number}: field question", file=path, expected="a text")
        final = item.get("final")
        if final is None and isinstance(item.get("answer"), str) and "####" in item["answer"]:
            final = item["answer"].rsplit("####", 1)[1]
        if not isinstance(final, str | int | float) or not str(final).strip():
            raise FormatError(
                f"line {number}: field final",
                file=path,
                expected='the right number, or an "answer" that ends in "#### number"',
            )
        found.append(Problem(str(item.get("id", f"line-{number}")), question, str(final)))
    if not found:
        raise FormatError(
            "no problems in it", file=path, hint='A line is {"question", "answer", "final"}'
        )
    return found


def said_number(text: str) -> str | None:
    """The last number of an answer, plain.

    Example:
        >>> said_number("So she makes 9 * 2 = $1,018.00 a day."), said_number("I do not know.")
        ('1018.00', None)
    """
    found = _NUMBER.findall(text)
    return plain(next(filter(None, found[-1]))) if found else None


def plain(number: str) -> str:
    """A number without thousands' commas, currency and a full stop behind it."""
    return number.strip().replace(",", "").replace("$", "").removesuffix(".")


def solve(
    engine: Engine, problems: Sequence[Problem], *, progress: Progress | None = None
) -> list[bool]:
    """Whether each problem's last number is the right one.

    Raises:
        EngineError: a problem does not fit the context.
    """
    right: list[bool] = []
    for begin in range(0, len(problems), engine.n_seq):
        group = problems[begin : begin + engine.n_seq]
        prompts = [engine.tokenize(f"Question: {p.question}\nAnswer:") for p in group]
        answers = generate_together(engine, prompts, max_tokens=MAX_TOKENS, stop=STOP)
        right += [
            said_number(a.text) == plain(p.final) for p, a in zip(group, answers, strict=True)
        ]
        if progress is not None:
            progress(len(right), len(problems))
    return right


def room(vocabulary: Vocabulary, problems: Sequence[Problem]) -> int:
    """Tokens of context that the longest problem with its answer needs."""
    longest = max(len(vocabulary.tokenize(f"Question: {p.question}\nAnswer:")) for p in problems)
    return longest + MAX_TOKENS
