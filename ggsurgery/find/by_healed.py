"""Choose layers to cut by the perplexity after healing.

Greedy, one layer a round; then the best span of the same length replaces the choice if it heals
better. In each candidate the layer in front of the cut is refitted quickly (see
`compensate.quick`), and the candidates are ranked by perplexity:

    three quarters of the windows   one pass of the uncut model and one of the cut so far give
                                    the statistics of all candidates' fits
    the last quarter                perplexity of each candidate, from kept states on
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..compensate.nodes import check_layer
from ..compensate.quick import correction, places_a_pass, statistics
from ..errors import EngineError, GGSurgeryError, InputError, OutputError, PlanError
from ..files.progress import Progress
from ..measure.metrics.perplexity import of_windows
from ..measure.results.comparison import Cost, Difference, paired
from ..measure.results.score import Score
from ..measure.setup import Setup
from ..measure.variants import Candidates
from ..plan.heal import PROJECTION, corrected
from ..plan.types import Block, Plan, main_reference

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Each cut layer with the perplexity after it, the uncut model's, and what the cut costs."""

    rounds: tuple[tuple[int, float], ...]
    before: float
    cost: Cost


def choose_by_healed(
    setup: Setup, count: int, keep: Collection[int] = (), progress: Progress | None = None
) -> Chosen:
    """Choose `count` layers.

    Args:
        keep: layers that stay.

    Raises:
        PlanError: fewer than two windows, or too few layers to choose from.
        GGSurgeryError: no candidate can be healed; the refusal of the last one.
    """
    fitted, ranked = setup.windows().to_fit_and_rank()
    arrays: dict[str, F32] = {}
    with ExitStack() as stack:
        fit, rank = (
            stack.enter_context(
                Candidates(
                    setup.path,
                    part,
                    cache_bytes=size,
                    n_threads=setup.n_threads,
                    given=arrays,
                    allow_unknown_arch=setup.allow_unknown_arch,
                )
            )
            for part, size in ((fitted, 0), (ranked, setup.cache_bytes))
        )
        base = fit.identity
        free = set(range(1, len(base.blocks))) - set(keep)
        if len(free) < count:
            raise PlanError(
                "too many layers are kept: layer 0 cannot be healed either",
                file=setup.path,
                expected=f"{count} that may go",
                found=len(free),
            )
        spans = _spans(free, count)
        uncut, total = _score(rank.prepare(base)), sum(len(free) - n for n in range(count))
        race = _Race(fit, rank, arrays, progress, len(spans) + total, uncut)
        span = race.run(base, spans) if spans else None
        rounds: list[tuple[int, float]] = []
        best: _Candidate | None = None
        for number in range(count):
            if number:
                rank.prepare(base)
            best = race.run(base, [(layer,) for layer in sorted(free)])
            if best is None:
                break
            base = best.plan
            free.discard(best.layers[0])
            rounds.append((best.layers[0], best.perplexity))
        if span is not None and (best is None or span.perplexity < best.perplexity):
            best, rounds = span, [(layer, span.perplexity) for layer in span.layers]
        if best is None:
            raise race.refused or PlanError("no layer can be cut and healed", file=setup.path)
    return Chosen(tuple(rounds), uncut.value, Cost.of(best.difference, race.differences))


def _score(losses: Sequence[float]) -> Score:
    """The perplexity of the mean losses of windows."""
    return Score("perplexity", of_windows(losses)[1], None, len(losses), items=tuple(losses))


def _spans(free: set[int], count: int) -> list[tuple[int, ...]]:
    """Every run of `count` layers that may go, where that is more than one."""
    if count < 2:
        return []
    runs = [tuple(range(first, first + count)) for first in sorted(free)]
    return [run for run in runs if free.issuperset(run)]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A cut with its quick refit."""

    perplexity: float
    layers: tuple[int, ...]
    plan: Plan
    key: str
    difference: Difference


class _Race:
    """Refits candidates and keeps the best of each round."""

    def __init__(
        self,
        fit: Candidates,
        rank: Candidates,
        arrays: dict[str, F32],
        progress: Progress | None,
        total: int,
        uncut: Score,
    ) -> None:
        self.fit, self.rank, self.arrays = fit, rank, arrays
        self.progress, self.done, self.total = progress, 0, total
        self.uncut = uncut
        self.differences: list[Difference] = []
        self.refused: GGSurgeryError | None = None

    def run(self, base: Plan, cuts: list[tuple[int, ...]]) -> _Candidate | None:
        """The best of some further cuts of `base`, for which `rank` is prepared.

        Args:
            cuts: runs of neighbours, all of one length, by their numbers in the file.
        """
        best: _Candidate | None = None
        for place, change in _corrections(self.fit, base, cuts):
            try:
                if isinstance(change, GGSurgeryError):
                    raise change
                found = self._measure(base, place, len(cuts[0]), change)
                if best is None or (found.perplexity, found.layers) < (
                    best.perplexity,
                    best.layers,
                ):
                    best, found = found, best
                if found is not None:
                    del self.arrays[found.key]
            except (InputError, OutputError):
                raise
            except GGSurgeryError as error:
                self.refused = error
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)
        return best

    def _measure(self, base: Plan, place: int, length: int, change: F64) -> _Candidate:
        gone = base.blocks[place + 1 : place + 1 + length]
        key = f"quick.{self.done}"
        self.arrays[key] = np.ascontiguousarray(change, np.float32)
        carrier = corrected(base.blocks[place], PROJECTION, key)
        plan = _without(base, place, carrier, length)
        try:
            score = _score(self.rank.nll(plan))
        except GGSurgeryError:
            del self.arrays[key]
            raise
        layers = tuple(main_reference(block).index for block in gone)
        difference = paired(score, self.uncut)
        self.differences.append(difference)
        value = math.inf if math.isnan(score.value) else score.value
        return _Candidate(value, layers, plan, key, difference)


def _without(plan: Plan, place: int, carrier: Block, length: int) -> Plan:
    """The plan with another layer `place`, and without the `length` layers behind it."""
    return replace(plan, blocks=(*plan.blocks[:place], carrier, *plan.blocks[place + 1 + length :]))


def _corrections(
    session: Candidates, base: Plan, cuts: list[tuple[int, ...]]
) -> Iterator[tuple[int, F64 | GGSurgeryError]]:
    """For each cut: the place in front of it, and what is added to the projection there; or why
    that layer cannot be corrected."""
    layers = [main_reference(block).index for block in base.blocks]
    first, length = {cut[0] for cut in cuts}, len(cuts[0])
    n = len(session.identity.blocks)
    places = []
    for place in range(len(layers) - length):
        if layers[place + 1] in first:
            try:
                check_layer(session, base.blocks[place], PROJECTION)
                places.append(place)
            except GGSurgeryError as error:
                yield place, error
    size = places_a_pass(session, [base.blocks[place] for place in places])
    for begin in range(0, len(places), size):
        part = places[begin : begin + size]
        ends = {p: p + 1 + length for p in part}
        wanted = {p: (layers[end] if end < len(layers) else n) - 1 for p, end in ends.items()}
        sums = statistics(session, base, wanted)
        for place in part:
            try:
                yield place, correction(session, base.blocks[place], sums.pop(place))
            except EngineError as error:
                yield place, error
