"""Which layers are corrected: the seams, and behind each the next few kept layers.

How far a sweep goes is decided on held-out windows: the loss of the whole model after each
further layer, with the later seams still bare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..plan.heal import ATTENTION, PROJECTION, Place, key_of, scaled_behind
from ..plan.types import Plan
from .chain import Chain, Fit, Position
from .settings import LONGEST_SWEEP, PATIENCE, Chosen


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean negative log-likelihood of the held-out windows, nats a token.

    Attributes:
        bare, healed: of the plan without and with its corrections.
        unrounded: of the healed plan with corrected tensors in F32; None where they are stored
            as floats anyway.
    """

    bare: float
    healed: float
    unrounded: float | None = None

    @property
    def wins(self) -> bool:
        """Whether healing helps on text that it has not seen."""
        return self.healed < self.bare


@dataclass(frozen=True, slots=True)
class Swept:
    """The corrected plan, what was fitted, and what that is worth where it was not fitted.

    `losses` is None where no window was held out.
    """

    plan: Plan
    fits: tuple[Fit, ...]
    sweeps: tuple[int, ...]
    losses: Losses | None
    scales: tuple[tuple[int, float], ...] = ()


def runs_of(all_places: Sequence[Place]) -> list[list[Place]]:
    """Each seam with the kept places up to the next one.

    Example:
        >>> from ggsurgery.plan.heal import places
        >>> from ggsurgery.plan.ops import delete
        >>> cut = places(delete(Plan.identity(8), [2, 5]), 8)
        >>> [[place.position for place in run] for run in runs_of(cut)]
        [[1, 2], [3, 4, 5]]
    """
    runs: list[list[Place]] = []
    for place in all_places:
        if place.seam:
            runs.append([place])
        elif runs:
            runs[-1].append(place)
    return runs


def sweep(chain: Chain, runs: Sequence[Sequence[Place]], fixed: Chosen | None = None) -> Swept:
    """Correct the seams and sweep on from each.

    Args:
        fixed: what an earlier fit chose; nothing is chosen or compared then.
    """
    bare_plan = chain.at.plan
    chain.start(runs[0][0])
    if chain.settings.method == "scale":
        return _scaled(chain, runs, fixed)
    choose = fixed is None and chain.settings.sweep is None and len(chain.choice) > 0
    compare = fixed is None and len(chain.choice) > 0
    bare = chain.loss(chain.origin, bare_plan) if compare else 0.0
    fits: list[Fit] = []
    sweeps: list[int] = []
    for number, run in enumerate(runs):
        asked = chain.settings.sweep or 0
        if fixed is not None:
            asked = fixed.sweeps[number] if number < len(fixed.sweeps) else 0
        longest = LONGEST_SWEEP if choose else asked
        best: tuple[float, int, Position, list[Fit]] | None = None
        for count, place in enumerate(run[: longest + 1]):
            fits = [*fits, *_fit(chain, place, fixed)]
            if not choose:
                best = (0.0, count, chain.at, fits)
                continue
            loss = chain.loss()
            if best is None or loss < best[0]:
                best = (loss, count, chain.at, fits)
            elif count - best[1] >= PATIENCE:
                break
        assert best is not None
        _, count, chain.at, fits = best
        sweeps.append(count)
    losses = None
    if compare:
        losses = Losses(bare, chain.loss())
    return Swept(chain.at.plan, tuple(fits), tuple(sweeps), losses)


def _fit(chain: Chain, place: Place, fixed: Chosen | None) -> list[Fit]:
    tensors = (ATTENTION, PROJECTION) if chain.settings.attention else (PROJECTION,)
    ridges = {} if fixed is None else fixed.ridges
    number = chain.numbers[place.position]
    return [chain.fit(place, t, ridges.get(key_of(number, t))) for t in tensors]


def _scaled(chain: Chain, runs: Sequence[Sequence[Place]], fixed: Chosen | None) -> Swept:
    """Prune&Comp: the state behind each seam gets the length that it had."""
    bare, factors, so_far = chain.at.plan, dict[int, float](), 1.0
    for run in runs:
        place = run[0]
        factors[place.position] = chain.scale(place, so_far)
        so_far *= factors[place.position]
        chain.replan(scaled_behind(bare, factors))
    losses = None
    if fixed is None and len(chain.choice):
        losses = Losses(chain.loss(chain.origin, bare), chain.loss())
    scales = tuple((chain.numbers[i], factor) for i, factor in factors.items())
    return Swept(chain.at.plan, (), tuple(0 for _ in runs), losses, scales)
