"""A whole search: workers' crashes survived, results ranked, the winner measured again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...arch import rules_for
from ...errors import EngineError, FormatError, GGSurgeryError
from ...files.fields import FieldError, Fields, list_of, mapping, number, text
from ...ggufio.header import read_header
from ...measure.controls import N_RANDOM, Control, choose_controls
from ...measure.results.statistics import Interval, wilson_of_share
from ...measure.variants.batch import Trial, measure_all
from ...measure.variants.journal import Journal, past_crashes
from ...measure.variants.measure import Difference, Measured, Setup, paired
from ...plan.recipe import Recipe
from ...plan.types import Plan, main_reference
from ...runtime import worker
from ...runtime.quantize import quantize
from ...surgery.prepare import prepare
from .dead_workers import failed, given_up, queue_again
from .enqueue import HAND_MADE
from .optimize import Work, run_worker
from .propose import SAME_AS
from .space import alike
from .storage import RETRIES, close_storage, open_storage, optuna, patiently, shown

Progress = Callable[[int, int], None]

#: File types that the uncut model is tried at, as a control.
LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


@dataclass(frozen=True)
class Row:
    """One configuration of a study.

    `values` are the objectives; `error` says why there are none. `hand_made` ones were
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
        for digest, trial in lost.items():  # nobody here tries it again
            label = f"crashed {trial}"
            book.finished({"digest": digest, "label": label, "error": str(error)})
        numbers = set(map(int, lost.values()))
        patiently(partial(_give_back, work, numbers), work.storage, book.results.__len__)

    past_crashes(work.journal, {}, attempt, record)
    return outcome(work)


def _give_back(work: Work, numbers: Collection[int], max_retry: int | None = RETRIES) -> None:
    """Queue the trials of a dead child at once: nobody must wait for its heartbeat to be missed."""
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
            continue  # a point that is no recipe, or a plan that stands in another row
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


@dataclass(frozen=True)
class Verdict:
    """The winner and its controls on the reporting set.

    `controls` pairs a name with its figure and its paired difference to the winner (positive:
    a larger figure than the winner's).
    """

    winner: Row
    base: Measured
    measured: Measured
    to_base: Difference
    controls: tuple[tuple[str, Measured | None, Difference | None, str | None], ...]
    tried: int
    lower_is_better: bool
    metric: str = "perplexity"

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Controls that could not be measured, of which nothing can be said."""
        return tuple(name for name, measured, _, _ in self.controls if measured is None)

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """Controls that the winner does not clearly beat (`Difference.clear`)."""
        sign = 1 if self.lower_is_better else -1
        return tuple(
            name
            for name, _, d, _ in self.controls
            if d is not None and not (d.clear and sign * d.value > 0)
        )

    @property
    def rule(self) -> str:
        """How a difference is judged, in words."""
        known = [d for _, _, d, _ in self.controls if d is not None]
        if known and all(d.p_value is not None for d in known):
            return "McNemar, p < 0.05"
        return "two standard errors"

    def to_json(self) -> dict[str, Any]:
        def figures(m: Measured | None) -> dict[str, Any] | None:
            return None if m is None else {"value": m.value, "stderr": m.stderr, "n": m.n}

        return {
            "metric": self.metric,
            "winner": self.winner.to_json(),
            "configurations_tried": self.tried,
            "uncut": figures(self.base),
            "measured": figures(self.measured),
            "difference_to_uncut": {"value": self.to_base.value, "stderr": self.to_base.stderr},
            "controls": [
                {
                    "name": name,
                    "measured": figures(m),
                    "difference_to_winner": None
                    if d is None
                    else {"value": d.value, "stderr": d.stderr, "p_value": d.p_value},
                    "error": error,
                }
                for name, m, d, error in self.controls
            ],
            "unbeaten_controls": list(self.unbeaten),
        }


def report(
    setup: Setup,
    winner: Row,
    tried: int,
    journal: Path,
    scratch: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verdict:
    """Measure the winner again on a set that the search has not seen, with controls.

    Args:
        setup: as in the search, but with the reporting set.
        scratch: a folder for the quantized control, which is removed again.

    Raises:
        GGSurgeryError: the winner cannot be measured.
    """
    header = read_header(setup.path)
    n_tail = rules_for(header, allow_unknown=True).n_tail(header)
    before = Plan.identity(header.n_layers, n_tail)
    after = winner.recipe.apply(before)
    n_trunk = len(before.blocks)
    removed = n_trunk - len(after.blocks)
    options = {"allow_unknown_arch": True} if setup.allow_unknown_arch else {}
    options |= dict(winner.recipe.options)
    with prepare(replace(winner.recipe, options=tuple(options.items())), [setup.path]) as operation:
        cut_bytes = operation.layout.n_bytes
    base_bytes = sum(header.file_size)
    sizes = {}
    if cut_bytes < base_bytes:
        for ftype in LADDER:
            done = quantize(setup.path, None, ftype, allow_requantize=True, dry_run=True)
            sizes[ftype] = done.n_bytes
    kept = {main_reference(block).index for block in after.blocks}
    controls = choose_controls(
        n_trunk,
        removed,
        cut_bytes,
        sizes,
        base_bytes=base_bytes,
        seed=seed,
        removed=[layer for layer in range(n_trunk) if layer not in kept],
    )
    named = [(c.name, c.recipe) for c in controls if c.layers]
    if removed <= 0:  # nothing to cut at random: the same operations at random places
        others = alike(winner.recipe, n_trunk, N_RANDOM, seed)
        named = [(f"random {recipe.describe()}", recipe) for recipe in others]
    recipes = [winner.recipe, *(recipe for _, recipe in named)]
    base, trials = measure_all(setup, recipes, journal, progress=progress)
    first = trials[0]
    if first.measured is None or first.difference is None:
        raise GGSurgeryError(f"the winner cannot be measured: {first.error}", file=setup.path)
    rows = [
        _row(name, trial, first.measured)
        for (name, _), trial in zip(named, trials[1:], strict=True)
    ]
    for control in (c for c in controls if not c.layers):
        if control.ftype is None:  # the uncut model itself, which is measured already
            rows.append((control.name, base, -first.difference, None))
        else:
            rows.append(_quantized(setup, control, first.measured, scratch))
    return Verdict(
        winner,
        base,
        first.measured,
        first.difference,
        tuple(rows),
        tried,
        setup.lower_is_better,
        setup.metric,
    )


def _row(
    name: str, trial: Trial, winner: Measured
) -> tuple[str, Measured | None, Difference | None, str | None]:
    if trial.measured is None:
        return name, None, None, trial.error
    return name, trial.measured, _against(trial.measured, winner), None


def _against(measured: Measured, winner: Measured) -> Difference:
    if measured.items and len(measured.items) == len(winner.items):
        return paired(measured.items, winner.items)
    return Difference(measured.value - winner.value, None)


def _quantized(
    setup: Setup, control: Control, winner: Measured, scratch: Path
) -> tuple[str, Measured | None, Difference | None, str | None]:
    """The uncut model with fewer bits."""
    path = scratch / "control.gguf"
    assert control.ftype is not None
    try:
        quantize(setup.path, path, control.ftype, allow_requantize=True, force=True)
        base, _ = measure_all(replace(setup, path=path), [], scratch / f"{control.ftype}.jsonl")
    except GGSurgeryError as error:
        return control.name, None, None, str(error)
    finally:
        path.unlink(missing_ok=True)
    return control.name, base, _against(base, winner), None
