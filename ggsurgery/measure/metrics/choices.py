"""Multiple choice by log-probability, the shared prefix of a question's choices decoded once.

question:   Q u e s t i o n … A n s w e r :  ┬─ choice 0
            └──── decoded once, KV kept ────┘├─ choice 1
                                             └─ choice 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import EngineError
from ...files.progress import Progress
from ...runtime.nonfinite import not_finite
from ...runtime.protocols import LanguageModel
from ...runtime.vocabulary import Vocabulary
from ..draw import draw_questions
from ..meter import Meter, Model
from ..questions import Prompted, Question, guess_style, load_questions, prompts
from ..results.score import Score, mean_score
from ..setup import Setup

#: Metrics of a run and what the summed log-probability of a choice is divided by.
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_tokens")


class ChoicesMeter(Meter["Asked"]):
    """Items are 1 where a question was answered right."""

    def read(self, setup: Setup) -> Asked:
        assert setup.data is not None
        questions = draw_questions(load_questions(setup.data), setup.limit, setup.limit_seed)
        return Asked(tuple(questions), setup.score)

    def measure(self, model: Model, data: Asked, progress: Progress | None = None) -> Score:
        prompted = prompts(data.questions, guess_style(data.questions))
        with model.vocabulary() as vocabulary:
            room = longest_prompt(vocabulary, prompted) + 8
        with model.engine(max(64, room * 2)) as engine:
            answered = score_choices(engine, prompted, progress=progress)
        (found,) = accuracy(answered, {}, (data.score,))
        facts = {"chance": chance_of(data.questions)}
        return self.made(found.value, found.stderr, found.n, found.items, found.ids, facts)


@dataclass(frozen=True)
class Asked:
    """Questions, and which accuracy of them counts."""

    questions: tuple[Question, ...]
    score: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the log-probability of each choice and its lengths."""

    prompted: Prompted
    logprobs: tuple[float, ...]
    n_tokens: tuple[int, ...]

    def picks(self) -> dict[str, int]:
        """The choice that each metric prefers; ties go to the first, as numpy's argmax does.

        `acc` sum; `acc_norm` per character and `acc_bytes` per UTF-8 byte of what was scored
        (a letter where letters are), both as lm-evaluation-harness counts them (without the
        space in front); `acc_tokens` per token, as llama-perplexity's HellaSwag score does.
        """
        sums = np.array(self.logprobs)
        choices = [c.removeprefix(" ") for c in self.prompted.continuations]
        divisors = {
            "acc": np.ones(len(choices)),
            "acc_norm": np.array([len(c) for c in choices], float),
            "acc_bytes": np.array([len(c.encode()) for c in choices], float),
            "acc_tokens": np.array(self.n_tokens, float),
        }
        return {name: int(np.argmax(sums / d)) for name, d in divisors.items()}


def encode_pair(
    engine: LanguageModel, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Tokens of the context and of what continues it, split where the context's tokens end.

    The whole is tokenized together, as the model would read it, and trailing blanks of the
    context go to the continuation, as lm-evaluation-harness does it.
    """
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    start = [engine.bos] if engine.add_bos and engine.bos is not None else []
    whole = start + engine.tokenize(context + continuation, add_special=False)
    before = start + engine.tokenize(context, add_special=False)
    if not before:  # nothing to condition on: begin with BOS or EOS
        first = engine.bos if engine.bos is not None else engine.eos
        before = [] if first is None else [first]
        whole = before + whole
    return whole[: len(before)], whole[len(before) :]


def score_question(engine: LanguageModel, prompted: Prompted) -> Answered:
    """Log-probabilities of all choices of one question.

    Choices whose contexts are equal share one decode of it; what their tokens have in
    common beyond the context is shared too.

    Raises:
        EngineError: a choice has no token of its own, the prompt does not fit the context,
            or a log-probability is not a number.
    """
    pairs = [
        encode_pair(engine, a, b)
        for a, b in zip(prompted.contexts, prompted.continuations, strict=True)
    ]
    for i, (before, after) in enumerate(pairs):
        if not after or not before:
            raise EngineError(
                f"question {prompted.question.id}: choice {i} adds no token to its context",
                hint="Check the choice's text and the --style",
            )
    sums = [0.0] * len(pairs)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (before, _) in enumerate(pairs):
        groups.setdefault(tuple(before), []).append(i)
    for before_key, members in groups.items():
        found = engine.logprobs(list(before_key), [pairs[i][1] for i in members])
        for i, values in zip(members, found, strict=True):
            sums[i] = float(np.sum(values))
            if not np.isfinite(sums[i]):
                where = f"question {prompted.question.id}, choice {i}"
                raise not_finite(engine, [*before_key, *pairs[i][1]], where)
    return Answered(prompted, tuple(sums), tuple(len(after) for _, after in pairs))


def score_choices(
    engine: LanguageModel, prompted: Sequence[Prompted], *, progress: Progress | None = None
) -> list[Answered]:
    """Score many questions; see `score_question`."""
    answered = []
    for item in prompted:
        answered.append(score_question(engine, item))
        if progress is not None:
            progress(len(answered), len(prompted))
    return answered


def accuracy(
    answered: Sequence[Answered], provenance: dict[str, Any], metrics: Sequence[str] = METRICS
) -> list[Score]:
    """The share of right picks of each metric, with stderr, n and per-question items."""
    ids = [a.prompted.question.id for a in answered]
    picks = [a.picks() for a in answered]
    answers = [a.prompted.question.answer for a in answered]
    return [
        mean_score(
            metric,
            [float(p[metric] == answer) for p, answer in zip(picks, answers, strict=True)],
            provenance,
            ids,
        )
        for metric in metrics
    ]


def chance_of(questions: Sequence[Question]) -> float:
    """The accuracy of guessing."""
    return sum(1 / len(q.choices) for q in questions) / len(questions)


def longest_prompt(vocabulary: Vocabulary, prompted: Sequence[Prompted]) -> int:
    """Tokens of the longest question with its longest choice: the context that is needed."""
    longest = 0
    for item in prompted:
        for pair in zip(item.contexts, item.continuations, strict=True):
            longest = max(longest, len(vocabulary.tokenize("".join(pair))))
    return longest
