"""Every single operation of a kind, measured against the uncut model.

Leave-one-out (`delete`, `drop-expert`) answers which layer or expert is missed least; `swap`,
`duplicate` and `prune` do the same for the other operations. Results are trials in a journal,
so a scan can be stopped, continued and extended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arch import rules_for
from ..arch.experts import mixture
from ..errors import PlanError
from ..files.progress import Progress
from ..ggufio.reader import Source
from ..ggufio.types import Header
from ..measure.results.comparison import corrected
from ..measure.results.score import Score
from ..measure.retention import is_near_random
from ..measure.setup import Setup
from ..measure.variants.batch import Trial, measure_all
from ..plan.recipe import Recipe, step
from ..plan.text import format_layers

OPERATIONS = ("delete", "swap", "duplicate", "prune", "drop-expert")

#: Shares of the weights that `prune` sets to zero unless others are asked for (percent).
SHARES = (10, 20, 30, 40, 50, 60, 70, 80)


@dataclass(frozen=True)
class Scan:
    """All trials of one operation.

    `positions[i]` is what trial i is drawn over: the layer, the pruned share, or of experts the
    layer and the expert's share of it.
    """

    operation: str
    metric: str
    lower_is_better: bool
    base: Score
    trials: tuple[Trial, ...]
    positions: tuple[float, ...]

    def ranked(self) -> list[Trial]:
        """Measured trials, the least harmful first."""
        good = [t for t in self.trials if t.measured is not None]
        sign = 1 if self.lower_is_better else -1
        return sorted(good, key=lambda t: (math.isnan(_value(t)), sign * _value(t)))

    @property
    def guessing(self) -> bool:
        """Whether guessing explains the uncut model's accuracy.

        Then its layers have nothing to lose, and their ranking is noise.
        """
        return is_near_random(self.base)

    @property
    def corrected(self) -> list[float | None]:
        """P of each trial's difference, with Holm's correction for all trials of the scan."""
        return corrected([trial.difference for trial in self.trials])

    @property
    def tests(self) -> str:
        """The tests behind the p values; empty where no difference was tested."""
        known = {t.difference.test for t in self.trials if t.difference and t.difference.test}
        return " or ".join(sorted(known))

    def to_json(self) -> dict[str, Any]:
        return {
            "operation": self.operation,
            "metric": self.metric,
            "direction": "lower" if self.lower_is_better else "higher",
            "guessing": self.guessing,
            "base": {
                "value": self.base.value,
                "stderr": self.base.stderr,
                "n": self.base.n,
                "chance": self.base.provenance.get("chance"),
            },
            "rows": [
                {"position": place, **trial.to_json(), "difference_p_corrected": p}
                for place, trial, p in zip(self.positions, self.trials, self.corrected, strict=True)
            ],
        }


def _value(trial: Trial) -> float:
    assert trial.measured is not None
    return trial.measured.value


def operations(
    header: Header, operation: str, *, shares: Sequence[float] = SHARES, distance: int = 1
) -> tuple[list[Recipe], list[float]]:
    """All single operations of a kind on a model, and what they are drawn over.

    Args:
        shares: percent of the weights, for `prune`.
        distance: how far apart the layers are that `swap` exchanges.

    Raises:
        PlanError: an unknown operation, or no two layers so far apart.
    """
    n = header.n_layers - rules_for(header, allow_unknown=True).n_tail(header)
    match operation:
        case "delete":
            steps = [step("delete", layer=str(i)) for i in range(n)]
        case "duplicate":
            steps = [step("duplicate", layer=str(i)) for i in range(n)]
        case "swap":
            if distance >= n:
                raise PlanError(
                    "no two layers are so far apart",
                    file=header.path,
                    expected=f"a --distance below {n}, the layers there are",
                    found=distance,
                )
            steps = [step("swap", layers=f"{i},{i + distance}") for i in range(n - distance)]
        case "prune":
            cuts = [step("prune", sparsity=share / 100) for share in shares]
            return [Recipe((cut,)) for cut in cuts], list(shares)
        case "drop-expert":
            return _without_one_expert(header, n)
        case _:
            raise PlanError("unknown operation", expected=" or ".join(OPERATIONS), found=operation)
    return [Recipe((s,)) for s in steps], [float(i) for i in range(len(steps))]


def _without_one_expert(header: Header, n_trunk: int) -> tuple[list[Recipe], list[float]]:
    found = mixture(header)
    recipes, positions = [], []
    for layer in (n for n in found.layers if n < n_trunk):
        for expert in range(found.n_experts):
            kept = [e for e in range(found.n_experts) if e != expert]
            one = step("keep_experts", experts={str(layer): format_layers(kept)})
            recipes.append(Recipe((one,)))
            positions.append(layer + expert / found.n_experts)
    return recipes, positions


def scan(
    setup: Setup,
    operation: str,
    journal: str | Path,
    *,
    shares: Sequence[float] = SHARES,
    distance: int = 1,
    source: Source | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Measure every single operation; see `operations` for its arguments.

    Args:
        source: the setup's model, where it is open already; its header is not read again.
        journal: a file that keeps the results; measured ones in it are not measured again.

    Raises:
        GGSurgeryError: the uncut model cannot be measured, or the journal is another's.
    """
    with nullcontext(source) if source is not None else Source(setup.path) as opened:
        recipes, positions = operations(opened.header, operation, shares=shares, distance=distance)
        base, trials = measure_all(setup, recipes, journal, source=opened, progress=progress)
    return Scan(
        operation, setup.metric, setup.lower_is_better, base, tuple(trials), tuple(positions)
    )
