"""LaCo (Yang et al. 2024): layers collapse into an earlier one, as long as the output stays.

    l ← H − C
    while l ≥ L:
        merge layers l … l+C−1 (fewer at the end of the stack) into l
        s ← mean over texts of cos(last hidden state of the candidate, of the original)
        s > T:  keep it; l ← l − I, and where l is beyond the stack, l ← layers − 1 − C
        else:   l ← l − 1
    stop before a merge would pass the compression limit

Three ways to merge: `paper` (Eq. 1: θ_l + Σ_k (θ_{l+k} − θ_l), every tensor), `reference`
(what the published code computes: θ_{l+m} for the seven projections, norms of l kept, since
it subtracts the base that it has just updated) and `damped` (differences times a factor).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import ArchitectureError, PlanError
from ...plan.recipe import Step
from ...plan.types import Plan
from .types import STOPPED, Attempt, Result, Settings


def collapse(
    plan: Plan,
    settings: Settings,
    similarities: Callable[[Plan], Sequence[float]],
    report: Callable[[Attempt], object] | None = None,
) -> Result:
    """The loop itself; it works on layer numbers and similarities, not on models.

    Args:
        plan: the stack to start from.
        similarities: cosines of a candidate's last hidden states with the original's, one a
            calibration text. Layers of different kinds (ArchitectureError) and weights that the
            type cannot hold (PlanError) reject the attempt.
        report: called with every attempt.

    Raises:
        PlanError: impossible settings.

    Example:
        >>> result = collapse(Plan.identity(36), Settings(highest=28), lambda plan: [1.0])
        >>> [a.base for a in result.accepted], len(result.plan.blocks)
        ([25, 23, 21, 19, 17], 26)
    """
    total = len(plan.blocks)
    settings.check(total)
    settings = settings.fitted(total)
    lowest, highest = settings.bounds
    attempts: list[Attempt] = []
    steps: list[Step] = []
    base = highest - settings.merge_layers
    while base >= lowest:
        count = len(plan.blocks)
        last = min(base + settings.merge_layers - 1, count - 1)
        merged = tuple(range(base + 1, last + 1))
        number = len(attempts) + 1
        if not merged:  # no layer follows the last one, so nothing can be merged into it
            base -= 1
            continue
        if (total - count + len(merged)) / total > settings.max_compression:
            note = f"{STOPPED}the compression limit would be passed"
            attempts.append(Attempt(number, base, merged, count, None, False, note=note))
            if report is not None:
                report(attempts[-1])
            break
        one = settings.merge(base, last)
        candidate = one.apply(plan)
        try:
            parts = tuple(float(s) for s in similarities(candidate))
            mean: float | None = float(np.mean(parts))
            note = "" if np.isfinite(np.mean(parts)) else "rejected: the candidate gives no numbers"
        except (ArchitectureError, PlanError) as error:  # another base may work
            parts, mean, note = (), None, f"rejected: {error.problem}"
        accepted = mean is not None and mean > settings.threshold  # False for NaN
        attempts.append(Attempt(number, base, merged, count, mean, accepted, parts, note))
        if report is not None:
            report(attempts[-1])
        if accepted:
            plan = candidate
            steps.append(one)
            base -= settings.interval
            if base >= len(plan.blocks):
                base = len(plan.blocks) - 1 - settings.merge_layers
        else:
            base -= 1
    return Result(settings, tuple(attempts), tuple(steps), plan, total)
