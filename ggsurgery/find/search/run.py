"""A whole search: crashes of workers survived, results ranked."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...errors import EngineError, FormatError
from ...files.fields import FieldError, Fields, list_of, mapping, number, text
from ...files.progress import Progress
from ...measure.results.statistics import Interval, wilson_of_share
from ...measure.variants.journal import Journal, past_crashes
from ...plan.recipe import Recipe
from ...runtime import worker
from .dead_workers import failed, given_up, queue_again
from .enqueue import HAND_MADE
from .optimize import Work, run_worker
from .propose import SAME_AS
from .storage import RETRIES, close_storage, open_storage, optuna, patiently, shown


@dataclass(frozen=True)
class Row:
    """One configuration of a study.

    `values` are the objectives; `error` is the reason if there are none. `hand_made` ones were
    queued as recipes. `share`: the first objective is a share of right answers.
    """

    number: int
    recipe: Recipe
    digest: str
    values: tuple[float, ...]
    stderr: float | None
    items: tuple[float, ...]
    error: str | None
    hand_made: bool = False
    share: bool = False

    @property
    def interval(self) -> Interval | None:
        """Wilson's, of a share of right answers."""
        if not self.share or not self.items or not self.values:
            return None
        return wilson_of_share(self.values[0], len(self.items))

    def to_json(self) -> dict[str, Any]:
        return {
            "trial": self.number,
            "operation": self.recipe.describe(),
            "recipe": self.recipe.to_json(),
            "digest": self.digest,
            "values": list(self.values),
            "stderr": self.stderr,
            "items": list(self.items),
            "error": self.error,
            "hand_made": self.hand_made,
        }


@dataclass(frozen=True)
class Outcome:
    """All configurations of a study, best first; those without a figure come last."""

    rows: tuple[Row, ...]
    front: tuple[Row, ...]
    lower_is_better: bool

    @property
    def ranked(self) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if r.error is None)

    @property
    def tried(self) -> int:
        return len(self.rows)


def search(work: Work, progress: Progress | None = None) -> Outcome:
    """Work on a study in a child process until its budget is spent, then read its results.

    A candidate that crashes the child is marked as such, and the search goes on.

    Raises:
        GGSurgeryError: see `optimize.run_worker`.
    """
    begin, restarts = time.monotonic(), 0

    def attempt(run: str) -> None:
        spent = time.monotonic() - begin if restarts else 0.0
        try:
            worker.run(run_worker, work, run, spent, progress=progress, file=work.setup.path)
        except KeyboardInterrupt:
            with suppress(Exception):  # a storage that is gone must not hide the interruption
                lost = Journal(work.journal, {}).lost(run) if work.journal.exists() else {}
                _give_back(work, set(map(int, lost.values())), max_retry=None)
            raise

    def record(lost: dict[str, str], error: EngineError) -> None:
        nonlocal restarts
        restarts += 1
        book = Journal(work.journal, {})
        for digest, trial in lost.items():  # not retried on this machine
            label = f"crashed {trial}"
            book.finished({"digest": digest, "label": label, "error": str(error)})
        numbers = set(map(int, lost.values()))
        patiently(partial(_give_back, work, numbers), work.storage, book.results.__len__)

    past_crashes(work.journal, {}, attempt, record)
    return outcome(work)


def _give_back(work: Work, numbers: Collection[int], max_retry: int | None = RETRIES) -> None:
    """Requeue a dead child's trials immediately instead of waiting for the heartbeat timeout."""
    storage = open_storage(work.storage, work.heartbeat)
    try:
        study = optuna().load_study(study_name=work.name, storage=storage)
        for trial in study.get_trials(deepcopy=False):
            if trial.number in numbers and not trial.state.is_finished():
                queue_again(study, trial, max_retry)
    finally:
        close_storage(storage)


def outcome(work: Work) -> Outcome:
    """The study's results as they stand.

    Raises:
        GGSurgeryError: the storage does not answer.
    """
    module = optuna()

    def read() -> Any:
        storage = open_storage(work.storage, work.heartbeat)
        try:
            study = module.load_study(study_name=work.name, storage=storage)
            return study.get_trials(deepcopy=False)
        finally:
            close_storage(storage)

    trials = patiently(read, work.storage, lambda: 0)
    states = module.trial.TrialState
    lost = {t.number for t in failed(trials) if given_up(t)}
    rows = []
    for t in trials:
        a = t.user_attrs
        if not ("digest" in a or HAND_MADE in a) or SAME_AS in a:
            continue  # an invalid recipe, or a plan that another row has
        if t.state not in (states.COMPLETE, states.PRUNED) and t.number not in lost:
            continue
        # Optuna gives a pruned trial its last intermediate value, which is of fewer windows
        values = tuple(t.values or ()) if t.state == states.COMPLETE else ()
        why = f"its worker died {RETRIES + 1} times" if t.number in lost else "pruned"
        rows.append(_row_of(t, values, why, shown(work.storage)))
    sign = 1 if work.setup.lower_is_better else -1
    rows.sort(key=lambda r: (r.error is not None, *(sign * v for v in r.values[:1]), r.number))
    front = pareto(rows, [sign, 1 if work.second == "size" else -1]) if work.second else ()
    return Outcome(tuple(rows), tuple(front), work.setup.lower_is_better)


def _row_of(trial: Any, values: tuple[float, ...], why: str, where: str) -> Row:
    """A trial as a row; its attributes may be anybody's."""
    a = Fields(trial.user_attrs)
    try:
        recipe = a.get_or("recipe", mapping, None) or a.get(HAND_MADE, mapping)
        return Row(
            trial.number,
            Recipe.from_json(recipe, where),
            a.get_or("digest", text, ""),
            values,
            a.get_or("stderr", number, None),
            a.get_or("items", list_of(number), ()),
            None if values else a.get_or("error", text, why),
            HAND_MADE in a.data,
            "chance" in a.get_or("detail", mapping, {}),
        )
    except FieldError as error:
        raise FormatError(
            f"trial {trial.number} of the study: {error.problem}",
            file=where,
            expected=error.expected,
            found=error.found,
            hint="Another program has written to the study: name a new one.",
        ) from None


def pareto(rows: Sequence[Row], signs: Sequence[int]) -> list[Row]:
    """Rows that no other row beats in one objective without losing in the other."""
    good = [r for r in rows if r.error is None]
    scaled = [tuple(s * v for s, v in zip(signs, r.values, strict=True)) for r in good]

    def beaten(i: int) -> bool:
        return any(
            all(a <= b for a, b in zip(other, scaled[i], strict=True)) and other != scaled[i]
            for other in scaled
        )

    return [r for i, r in enumerate(good) if not beaten(i)]
