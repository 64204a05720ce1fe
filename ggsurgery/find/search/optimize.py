"""One worker of a study: get a candidate, measure it if it is new, record the result.

Runs in a child process (`search` starts it through `runtime.worker`): a candidate that
crashes llama.cpp takes the child, not the search.
"""

from __future__ import annotations

import math
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GGSurgeryError, InputError, OutputError
from ...files.progress import Progress
from ...measure.results.score import Score
from ...measure.setup import Setup
from ...measure.variants import window_losses
from ...measure.variants.journal import Journal
from ...measure.variants.measure import Measurer
from ...plan.recipe import Recipe
from ...plan.types import Plan
from .dead_workers import Silence
from .enqueue import GIVEN
from .propose import SAME_AS, Repeated, propose
from .second import second
from .space import Space
from .storage import optuna, patiently
from .study import Question, Second, open_study

F64 = NDArray[np.float64]

#: Candidates in a row that were known before: the space has nothing new to give.
STALE = 300


@dataclass(frozen=True)
class Budget:
    """How much a search may try: configurations (of all workers), or seconds of this one."""

    count: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Work:
    """Everything a worker needs; it travels to a child process."""

    name: str
    setup: Setup
    storage: str
    journal: Path
    kinds: tuple[str, ...]
    max_ops: int
    budget: Budget
    second: Second | None = None
    sampler: str = "tpe"
    seed: int = 0
    halving: bool = False
    heartbeat: int = 60
    recipes: tuple[Recipe, ...] = ()

    def __post_init__(self) -> None:
        if self.halving and (not self.setup.asked.logarithmic or self.second is not None):
            raise GGSurgeryError(
                "halving works with --objective perplexity alone: it judges by a part of the text"
            )


def run_worker(work: Work, run: str, spent: float = 0.0, progress: Progress | None = None) -> None:
    """Work on a study until its budget is spent; made to be run by `runtime.worker.run`.

    Args:
        run: a word that marks this child's lines in the journal.
        spent: seconds of the budget that children before this one have used.

    Raises:
        GGSurgeryError: another study of that name, an impossible space or budget, a storage
            that is gone for good.
    """
    with Measurer(work.setup) as measurer:
        _Worker(work, measurer, run, spent, progress).loop()


def question_of(work: Work, measurer: Measurer) -> Question:
    """What the study asks, from the work and the opened model."""
    setup, session = work.setup, measurer.session
    space = Space(work.kinds, len(session.identity.blocks), work.max_ops)
    digest = measurer.windows.digest if setup.needs_text else "none"
    checksum, lower = session.source.checksum(), setup.lower_is_better
    return Question(work.name, checksum, setup.facts(), space, lower, digest, work.second)


class _Worker:
    def __init__(
        self, work: Work, measurer: Measurer, run: str, spent: float, progress: Progress | None
    ) -> None:
        self.work, self.measurer, self.run, self.progress = work, measurer, run, progress
        self.begin = time.monotonic() - spent
        self.best: list[F64] | None = None  # losses by window of the best candidate so far
        self.question = question_of(work, measurer)
        self.space = self.question.space
        allowed = self.space.check(measurer.session.source.header, measurer.session.rules)
        self.book = Journal(work.journal, self.question.to_json())
        if not spent:
            self._check_budget()
        count = work.budget.count
        singles = allowed if work.max_ops == 1 or count is None else (count + 1) // 2
        if work.sampler == "grid":
            singles = 0  # the grid holds them
        self.study = patiently(
            lambda: open_study(
                self.question,
                work.storage,
                sampler=work.sampler,
                seed=work.seed,
                halving=work.halving,
                heartbeat=work.heartbeat,
                exhaustive=singles,
                recipes=work.recipes,
            ),
            work.storage,
            self._kept,
        )
        self.states = optuna().trial.TrialState
        self.silence = Silence(self.study, 3.0 * work.heartbeat)

    def _kept(self) -> int:
        return len(self.book.results)

    def _check_budget(self) -> None:
        """Refuse a budget that not even one candidate fits into, with the estimate."""
        seconds = self.work.budget.seconds
        if self.work.budget.count is not None and self.work.budget.count < 1:
            raise GGSurgeryError(
                "the budget is too small",
                expected="1 configuration or more",
                found=self.work.budget.count,
            )
        if seconds is None:
            return
        start = time.monotonic()
        self.measurer.measure(self.measurer.session.identity)
        estimate = time.monotonic() - start
        if self.work.setup.needs_text:  # that reused all layers but the last: not a fair price
            start = time.monotonic()
            point = self.space.single(self.work.kinds[0], 0, 0)
            with suppress(GGSurgeryError):  # refused: others of the space may be allowed
                plan = self.space.recipe(point).apply(self.measurer.session.identity)
                self.measurer.measure(plan)
            estimate = max(estimate, time.monotonic() - start)
        if estimate > seconds:
            raise GGSurgeryError(
                "the budget is too small for one candidate",
                expected=f"at least {estimate:.1f} s (one candidate, measured just now)",
                found=f"{seconds:g} s",
                hint="Give more time, or measure fewer --windows.",
            )

    def loop(self) -> None:
        known = 0
        while known < STALE:
            done, waiting, running = self._counts()
            self._tell(done)
            if self._spent(done):
                return
            if not waiting and self._only_queued():
                if not running:
                    return
                time.sleep(min(2.0, self.work.heartbeat))
                self._revive()
                continue
            before = self._kept()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                proposing = not waiting and self.work.sampler != "grid"
                if proposing and not patiently(self._propose, self.work.storage, self._kept):
                    return
                patiently(self._next, self.work.storage, self._kept)
            known = 0 if self._kept() > before else known + 1

    def _propose(self) -> bool:
        """Queue a new configuration that the sampler draws; False where it knows no new one.

        It draws in a copy of the study, so that repeated draws do not become trials of the real
        one.
        """
        return propose(self.study, self._digest_of, STALE)

    def _digest_of(self, trial: Any) -> str | None:
        """Digest of the plan that a trial's point gives; None if it gives none."""
        try:
            return self._recipe(trial).apply(self.measurer.session.identity).digest
        except GGSurgeryError:
            return None

    def _next(self) -> None:
        """Take one candidate."""
        # another worker gave ours back, thinking that we are dead, or took the same one, which
        # SQLite does not prevent: the result is in the journal
        with suppress(optuna().exceptions.UpdateFinishedTrialError):
            try:
                self.study.optimize(self._objective, n_trials=1, catch=(Repeated,))
            except ValueError as error:
                if "Cannot tell a" not in str(error):
                    raise

    def _only_queued(self) -> bool:
        """Whether nothing is to be tried but what was queued (or the grid is used up)."""
        if self.work.sampler == "grid":
            return bool(self.study.sampler.is_exhausted(self.study))
        return self.work.max_ops == 1

    def _spent(self, done: int) -> bool:
        budget = self.work.budget
        if budget.count is not None and done >= budget.count:
            return True
        return budget.seconds is not None and time.monotonic() - self.begin >= budget.seconds

    def _tell(self, done: int) -> None:
        if self.progress is None:
            return
        budget = self.work.budget
        if budget.count is not None:
            self.progress(min(done, budget.count), budget.count)
        elif budget.seconds is not None:
            spent = int(time.monotonic() - self.begin)
            self.progress(min(spent, int(budget.seconds)), int(budget.seconds))

    def _counts(self) -> tuple[int, int, int]:
        """Configurations measured (each once), queued, and being measured, by all workers.

        Those that a dead worker had count as being measured until they are queued again.
        """
        trials = patiently(
            lambda: self.study.get_trials(deepcopy=False), self.work.storage, self._kept
        )
        s = self.states
        done = sum(
            t.state in (s.COMPLETE, s.PRUNED)
            and "digest" in t.user_attrs
            and SAME_AS not in t.user_attrs
            for t in trials
        )
        lost = patiently(lambda: self.silence.give_back(trials), self.work.storage, self._kept)
        waiting = sum(t.state == s.WAITING for t in trials)
        running = sum(t.state == s.RUNNING for t in trials)
        return done, waiting, max(running, lost)

    def _revive(self) -> None:
        """Give back the candidates of workers whose heartbeat stopped."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patiently(
                lambda: optuna().storages.fail_stale_trials(self.study),
                self.work.storage,
                self._kept,
            )

    def _objective(self, trial: Any) -> Any:
        pruned = optuna().TrialPruned
        try:
            recipe = self._recipe(trial)
            plan = recipe.apply(self.measurer.session.identity)
        except GGSurgeryError as error:
            trial.set_user_attr("error", str(error))
            raise pruned(str(error)) from error
        trial.set_user_attr("recipe", recipe.to_json())
        trial.set_user_attr("label", recipe.describe() or "nothing")
        trial.set_user_attr("digest", plan.digest)
        twin = self._twin(trial.number, plan.digest)
        if twin is not None:
            trial.set_user_attr(SAME_AS, twin.number)
            raise Repeated(twin.number)
        entry = self.book.results.get(plan.digest) or self._measure(trial, plan)
        if not entry.get("error"):
            self.book.entry(plan.digest, "values")
        for key in ("items", "stderr", "n", "detail", "seconds"):
            trial.set_user_attr(key, entry.get(key))
        if entry.get("error"):
            trial.set_user_attr("error", entry["error"])
            raise pruned(entry["error"])
        return entry["values"]

    def _recipe(self, trial: Any) -> Recipe:
        """The recipe given to the trial, or the recipe of the suggested point."""
        given = trial.user_attrs.get(GIVEN)
        if given is not None:
            return Recipe.from_json(given)
        point: dict[str, Any] = {}
        for name, values in self.space.axes().items():
            if isinstance(values[0], int):
                point[name] = trial.suggest_int(name, min(values), max(values))
            else:
                point[name] = trial.suggest_categorical(name, values)
        return self.space.recipe(point)

    def _twin(self, number: int, digest: str) -> Any:
        """An earlier trial of the same plan that was measured, pruned, or is on its way."""
        s = self.states
        for other in self.study.get_trials(deepcopy=False):
            if (
                other.number != number
                and other.user_attrs.get("digest") == digest
                and SAME_AS not in other.user_attrs
                and (
                    other.state in (s.COMPLETE, s.PRUNED)
                    or (other.state == s.RUNNING and other.number < number)
                )
            ):
                return other
        return None

    def _measure(self, trial: Any, plan: Plan) -> dict[str, Any]:
        self.book.started(plan.digest, f"{self.run} {trial.number}")
        begin = time.monotonic()
        entry: dict[str, Any] = {"digest": plan.digest, "label": trial.user_attrs["label"]}
        try:
            found = self._halved(trial, plan) if self.work.halving else self.measurer.measure(plan)
            values = [found.value]
            if self.work.second is not None:
                values.append(second(self.measurer, plan, self.work.second))
            entry |= {
                "values": values,
                "items": list(found.items),
                "stderr": found.stderr,
                "n": found.n,
                "detail": dict(found.provenance),
            }
            if not all(math.isfinite(v) for v in values):
                entry["error"] = f"not a number: {values}"
        except (InputError, OutputError):  # of the disk, not of the candidate
            raise
        except GGSurgeryError as error:
            entry["error"] = str(error)
        entry["seconds"] = time.monotonic() - begin
        self.book.finished(entry)
        return entry

    def _halved(self, trial: Any, plan: Plan) -> Score:
        """Window after window, as long as the candidate may still be the best.

        It goes when it is in the worse half of those seen (after 1, 2, 4 … windows) and two
        standard errors worse than the best, or three at any rank: where few were seen,
        or all are alike, the half alone would throw good ones away.
        """
        total = len(self.measurer.windows)
        losses: list[F64] = []
        behind = False
        with self.measurer.session.open(self.measurer.refitted(plan)) as candidate:
            for count in range(1, total + 1):
                losses.append(window_losses(candidate, count - 1))
                if count & (count - 1) == 0 and count < total:  # 1, 2, 4, 8 …
                    # a pruned trial's value is what it reported last: the study's own unit
                    trial.report(self._figure(losses).value, step=count)
                    behind = trial.should_prune()
                if count < total and self._worse(losses, 2.0 if behind else 3.0):
                    raise GGSurgeryError(f"stopped early after {count} windows")
        mean = np.concatenate(losses).mean()
        if math.isfinite(mean) and (self.best is None or mean < np.concatenate(self.best).mean()):
            self.best = losses
        return self._figure(losses)

    def _figure(self, losses: list[F64]) -> Score:
        """Combine windows that were measured one by one."""
        return self.measurer.meter.score([float(row.mean()) for row in losses])

    def _worse(self, losses: list[F64], errors: float) -> bool:
        """Whether these are worse than this worker's best, by so many paired standard errors."""
        if self.best is None:
            return False
        difference = np.concatenate(losses) - np.concatenate(self.best[: len(losses)])
        error = difference.std(ddof=1) / math.sqrt(len(difference))
        return not difference.mean() <= errors * error  # NaN is worse, too
