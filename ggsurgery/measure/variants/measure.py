"""One figure for a plan, paired with the same figure of the uncut model.

perplexity     items: mean nll of each window          value exp(mean)
kl             items: mean KL of each window           value mean (nats)
choices:FILE   items: 1 where a question was answered  value mean (acc_norm or acc)
gsm8k:FILE     items: 1 where a problem was solved     value mean
suite          the surgery suite's score out of 100    value total
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from ...errors import GGSurgeryError
from ...files.text import read_bytes, read_corpus
from ...plan.types import Plan
from ...runtime.engine import Engine
from ...runtime.nonfinite import not_finite
from ...runtime.vocab_only import VocabularyFile
from ..draw import SEED, draw_problems, draw_questions
from ..metrics.choices import accuracy, longest_prompt, score_choices
from ..metrics.gsm8k import TOGETHER, Problem, load_problems, room, solve
from ..metrics.perplexity import of_windows
from ..questions import Question, guess_style, load_questions, prompts
from ..registry import direction_of
from ..results.comparison import ALPHA
from ..results.score import mean_score
from ..results.statistics import Interval, mcnemar, paired_shares_interval, wilson_of_share
from ..suite.result import SurgeryScore
from ..suite.run import N_CTX, run_suite
from ..windows import Windows
from .divergence import Reference
from .session import CACHE_BYTES, Candidates, Route

Progress = Callable[[int, int], object]
METRICS = ("perplexity", "kl", "suite", "choices:FILE", "gsm8k:FILE")
#: Those that read a file of questions.
ASKING = ("choices", "gsm8k")


@dataclass(frozen=True)
class Setup:
    """What is measured, on what, and how: everything a worker process needs.

    Args:
        path: the uncut model.
        metric: one of METRICS.
        text: a UTF-8 text for perplexity and KL.
        n_ctx, n_windows: size of a window in tokens, and how many; None takes all.
        limit: how many questions of `choices` and `gsm8k`, or of each part of the suite.
        limit_seed: which questions those are.
        score: which accuracy counts for choices.
        parse_special: read special tokens in the text as the tokens they name.
    """

    path: Path
    metric: str = "perplexity"
    text: Path | None = None
    n_ctx: int = 512
    n_windows: int | None = 8
    limit: int | None = None
    limit_seed: int = SEED
    score: str = "acc_norm"
    cache_bytes: int = CACHE_BYTES
    route: Route = "auto"
    n_threads: int | None = None
    allow_unknown_arch: bool = False
    parse_special: bool = False
    given: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def needs_text(self) -> bool:
        return self.metric in ("perplexity", "kl")

    @property
    def lower_is_better(self) -> bool:
        return direction_of(self.metric) == "lower"

    def facts(self) -> dict[str, Any]:
        """What makes two measurements comparable; goes into journals and studies.

        Texts and questions count by their content: paths differ by machine, and files change.

        Raises:
            FormatError: the text or the questions cannot be read.
        """
        kind, _, data = self.metric.partition(":")
        return {
            "metric": kind,
            "text": _content(self.text) if self.needs_text and self.text is not None else None,
            "questions": _content(Path(data)) if data else None,
            "n_ctx": self.n_ctx,
            "n_windows": self.n_windows,
            "limit": self.limit,
            "limit_seed": None if self.limit is None or not data else self.limit_seed,
            "score": self.score if self.metric.startswith("choices:") else None,
            **({"parse_special": True} if self.needs_text and self.parse_special else {}),
        }


def _content(path: Path) -> str:
    return "sha256:" + hashlib.sha256(read_bytes(path)).hexdigest()


@dataclass(frozen=True)
class Measured:
    """A figure with its standard error and the items behind it."""

    value: float
    stderr: float | None
    items: tuple[float, ...]
    n: int
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interval(self) -> Interval | None:
        """Wilson's 95 % interval of a share of right answers, None of other figures."""
        return wilson_of_share(self.value, self.n) if "chance" in self.detail else None


@dataclass(frozen=True)
class Difference:
    """A plan's figure against the base's, paired item by item.

    `value` is in the metric's own unit; of perplexity it is the difference of mean nll (the
    log of the ratio), so that windows weigh alike. `stderr` is None without paired items.
    `p_value` (McNemar's exact test) and `interval` (95 %) are of right and wrong answers only:
    three questions that all turn out alike have a standard error of 0, and prove nothing.
    """

    value: float
    stderr: float | None
    p_value: float | None = None
    interval: Interval | None = None

    def __neg__(self) -> Difference:
        """The same, seen from the other side."""
        ends = self.interval
        return Difference(
            -self.value,
            self.stderr,
            self.p_value,
            None if ends is None else Interval(-ends.high, -ends.low, ends.level),
        )

    @property
    def clear(self) -> bool:
        """Whether it is more than two standard errors from zero, or p < 0.05."""
        if self.p_value is not None:
            return self.p_value < ALPHA
        return self.stderr is not None and abs(self.value) > 2 * self.stderr


class Measurer:
    """Measures plans of one model; a context manager.

    Raises:
        GGSurgeryError: an unknown metric, or its text or data is missing or unusable.
    """

    def __init__(self, setup: Setup, progress: Progress | None = None) -> None:
        self.setup = setup
        self._kind, _, data = setup.metric.partition(":")
        if self._kind not in ("perplexity", "kl", "suite", *ASKING) or (
            (self._kind in ASKING) != bool(data)
        ):
            raise GGSurgeryError(
                "unknown metric", expected=" or ".join(METRICS), found=setup.metric
            )
        self._questions: list[Question] = []
        self._problems: list[Problem] = []
        if self._kind == "choices":
            self._questions = draw_questions(load_questions(data), setup.limit, setup.limit_seed)
        elif self._kind == "gsm8k":
            self._problems = draw_problems(load_problems(data), setup.limit, setup.limit_seed)
        windows = windows_of(setup)
        self.session = Candidates(
            setup.path,
            windows,
            cache_bytes=setup.cache_bytes if setup.needs_text else 0,
            route=setup.route,
            n_threads=setup.n_threads,
            allow_unknown_arch=setup.allow_unknown_arch,
            given=setup.given,
        )
        self._reference: Reference | None = None
        try:
            self.base = self._measure_base(progress)
        except BaseException:
            self.close()
            raise

    @property
    def windows(self) -> Windows:
        return self.session.windows

    def _measure_base(self, progress: Progress | None) -> Measured:
        if not self.setup.needs_text:
            return self.measure(self.session.identity)
        nll = self.session.prepare(progress=progress)
        if not np.isfinite(nll).all():
            self._refuse_nan(int(np.argmin(np.isfinite(nll))))
        if self._kind == "perplexity":
            return self._summary(nll)
        self._reference = Reference(self.session, self.setup.n_threads)
        return self._summary([0.0] * len(self.windows))

    def _refuse_nan(self, index: int) -> NoReturn:
        """Nothing can be compared with a model that gives no numbers; says where that begins."""
        self.session.states = None  # so that the whole model is opened
        with self.session.open(self.session.identity) as candidate:
            raise not_finite(
                candidate.engine,
                self.windows.inputs[index],
                f"window {index + 1} of the uncut model",
                self.setup.path,
            )

    def measure(self, plan: Plan, progress: Progress | None = None) -> Measured:
        """The figure of a plan.

        Raises:
            GGSurgeryError: the plan is refused, or the candidate cannot be run.
        """
        if self._kind == "perplexity":
            return self._summary(self.session.nll(plan, progress=progress))
        if self._kind == "kl":
            assert self._reference is not None
            with self.session.open(plan) as candidate:
                return self._summary(self._reference.divergence(candidate))
        path = self.session.write_whole(plan)
        ways = {"suite": self._suite, "choices": self._choices, "gsm8k": self._solve}
        return ways[self._kind](path)

    def part(self, plan: Plan, windows: range) -> list[float]:
        """Items of some windows only, for halving; of perplexity.

        Raises:
            GGSurgeryError: this metric has no windows.
        """
        if self._kind != "perplexity":
            raise GGSurgeryError(
                f"{self.setup.metric} cannot be measured in parts",
                hint="Halving works with --objective perplexity.",
            )
        return self.session.nll(plan, windows)

    def difference(self, measured: Measured) -> Difference:
        """Against the base, item by item where both have the same items."""
        if len(measured.items) != len(self.base.items) or not measured.items:
            return Difference(measured.value - self.base.value, None)
        return paired(measured.items, self.base.items)

    def _summary(self, items: Sequence[float]) -> Measured:
        return summary(self._kind, items)

    def _choices(self, path: Path) -> Measured:
        style = guess_style(self._questions)
        prompted = prompts(self._questions, style)
        with VocabularyFile(path) as vocabulary:
            room = longest_prompt(vocabulary, prompted) + 8
        with Engine.open(path, n_ctx=max(64, room * 2), n_threads=self.setup.n_threads) as engine:
            scores = accuracy(score_choices(engine, prompted), {}, (self.setup.score,))
        chance = sum(1 / len(q.choices) for q in self._questions) / len(self._questions)
        score = scores[0]
        return Measured(score.value, score.stderr, score.items, score.n, {"chance": chance})

    def _solve(self, path: Path) -> Measured:
        with VocabularyFile(path) as vocabulary:
            n_ctx = room(vocabulary, self._problems)
        n_seq = min(TOGETHER, len(self._problems))
        with Engine.open(
            path, n_ctx=n_ctx, n_seq=n_seq, unified=False, n_threads=self.setup.n_threads
        ) as engine:
            right = solve(engine, self._problems)
        score = mean_score("gsm8k", [float(r) for r in right], {}, [p.id for p in self._problems])
        return Measured(score.value, score.stderr, score.items, score.n, {"chance": 0.0})

    def _suite(self, path: Path) -> Measured:
        with Engine.open(path, n_ctx=N_CTX, n_threads=self.setup.n_threads) as engine:
            found: SurgeryScore = run_suite(engine, limit=self.setup.limit)
        draws = found.draws()
        detail = {part.name: part.value for part in found.applicable}
        facts = next((p.value for p in found.applicable if p.name == "facts"), None)
        return Measured(
            found.total, float(draws.std()), (), found.n, {**detail, "facts_accuracy": facts}
        )

    def close(self) -> None:
        if self._reference is not None:
            self._reference.close()
        self.session.close()

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def windows_of(setup: Setup) -> Windows:
    """The text of a setup, cut; two tokens for a metric that needs none.

    Raises:
        GGSurgeryError: no text, or too short a one.
    """
    if not setup.needs_text:
        return Windows((np.zeros(2, np.int32),), (np.zeros(2, np.int32),))
    if setup.text is None:
        raise GGSurgeryError(f"{setup.metric} needs a text", hint="Give one with --text FILE")
    with VocabularyFile(setup.path) as vocabulary:
        return Windows.of_text(
            vocabulary,
            read_corpus(setup.text),
            setup.n_ctx,
            setup.n_windows,
            parse_special=setup.parse_special,
        )


def check_data(setup: Setup) -> None:
    """Refuse a text that is too short or questions that are none before work is done for them.

    Made to be run by `runtime.worker.run`.

    Raises:
        GGSurgeryError: what is wrong with them.
    """
    kind, _, data = setup.metric.partition(":")
    if kind == "choices":
        load_questions(data)
    elif kind == "gsm8k":
        load_problems(data)
    windows_of(setup)


def summary(kind: str, items: Sequence[float]) -> Measured:
    """Items → figure: exp of the mean for perplexity (nll items), else the mean."""
    n = len(items)
    mean, value = of_windows(items)
    spread = float(np.std(items, ddof=1) / math.sqrt(n)) if n > 1 else None
    if kind != "perplexity":
        return Measured(mean, spread, tuple(items), n)
    return Measured(value, None if spread is None else value * spread, tuple(items), n)


def paired(items: Sequence[float], base: Sequence[float]) -> Difference:
    """Mean difference and its standard error over pairs."""
    differences = np.subtract(items, base)
    n = len(differences)
    spread = float(differences.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    mean = float(differences.mean())
    if set(items) | set(base) <= {0.0, 1.0}:
        return Difference(mean, spread, mcnemar(base, items), paired_shares_interval(base, items))
    return Difference(mean, spread)
