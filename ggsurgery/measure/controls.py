"""What else could have been done with the same bytes and the same number of layers?

A cut is worth something only if it beats the cheap alternatives:

    uncut           the uncut model itself, where the operation saves no bytes
    same bytes      the uncut model at the next lower quantization of about the cut's size
    random layers   as many layers deleted, chosen by a seeded generator, several times
    last layers     as many deleted just before the last one

This module chooses the controls and judges them; building and measuring is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import GGSurgeryError
from ..plan.recipe import Recipe, step
from .results import statistics
from .results.comparison import ALPHA, Comparison
from .suite.result import SurgeryScore, compare_surgery

N_RANDOM = 3

#: File types that a person would choose from, without those that need an importance matrix.
LADDER = (
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_0",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
)

#: A control above the cut's size still counts as "about the same bytes" up to this ratio.
ABOUT = 1.05

#: Name of the uncut model as a control.
UNCUT = "uncut"


@dataclass(frozen=True, slots=True)
class Control:
    """One alternative to the cut.

    Args:
        name: for tables, `Q6_K, uncut` or `random 4, 11, 17`.
        kind: which of the four.
        layers: layers to delete from the base, as numbered there.
        ftype: file type to quantize the result to, None for the base's own.
    """

    name: str
    kind: Literal["uncut", "same bytes", "random layers", "last layers"]
    layers: tuple[int, ...] = ()
    ftype: str | None = None

    @property
    def recipe(self) -> Recipe:
        """That deletes its layers."""
        return Recipe((step("delete", layer=",".join(map(str, self.layers))),))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A control that was measured, or the reason why it could not be.

    `comparison` sets the control against the cut: positive differences speak against the cut.
    """

    control: Control
    bytes: int | None = None
    score: SurgeryScore | None = None
    comparison: Comparison | None = None
    p_corrected: float | None = None
    refused: str | None = None

    @property
    def verdict(self) -> str:
        """`the cut wins`, `the control wins`, or why neither can be said."""
        if self.comparison is None or self.p_corrected is None:
            return f"not built: {self.refused}"
        if self.p_corrected >= ALPHA:
            return f"not distinguishable at n = {self.comparison.n}"
        return "the control wins" if self.comparison.difference > 0 else "the cut wins"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.control.name,
            "kind": self.control.kind,
            "layers": list(self.control.layers),
            "type": self.control.ftype,
            "bytes": self.bytes,
            "score": None if self.score is None else self.score.total,
            "interval": None if self.score is None else self.score.interval.to_json(),
            "n": None if self.score is None else self.score.n,
            "difference": None if self.comparison is None else self.comparison.difference,
            "p_value": None if self.comparison is None else self.comparison.p_value,
            "p_corrected": self.p_corrected,
            "verdict": self.verdict,
        }


def choose_controls(
    n_layers: int,
    n_removed: int,
    cut_bytes: int,
    sizes: Mapping[str, int],
    *,
    base_bytes: int,
    ftype: str | None = None,
    removed: Sequence[int] = (),
    n_random: int = N_RANDOM,
    seed: int = 0,
) -> list[Control]:
    """The controls of one cut.

    Args:
        n_layers: of the base; n_removed: fewer layers that the cut has (0 or less: none).
        cut_bytes, base_bytes: file sizes.
        sizes: file size of the uncut base at each file type, from a dry run.
        ftype: the cut's file type where it differs from the base's: layer controls get it too.
        removed: the layers that the cut itself deleted, if known; no random draw repeats them.

    Example:
        >>> [c.name for c in choose_controls(6, 2, 70, {"Q6_K": 60}, base_bytes=100, n_random=0)]
        ['Q6_K, uncut', 'last layers 3-4']
    """
    controls = [
        Control(f"{name}, uncut", "same bytes", ftype=name)
        for name in _about_the_same(cut_bytes, base_bytes, sizes)
    ]
    if n_removed <= 0 and base_bytes <= ABOUT * cut_bytes:
        controls.insert(0, Control(UNCUT, "uncut"))
    if not 0 < n_removed < n_layers:
        return controls
    rng = np.random.default_rng(seed)
    taken = {tuple(sorted(removed))}
    last = tuple(range(max(0, n_layers - 1 - n_removed), n_layers - 1))[:n_removed]
    taken.add(last)
    for _ in range(50 * n_random):
        if sum(c.kind == "random layers" for c in controls) >= n_random:
            break
        drawn = tuple(sorted(rng.choice(n_layers, n_removed, replace=False).tolist()))
        if drawn not in taken:
            taken.add(drawn)
            controls.append(Control(f"random {_listed(drawn)}", "random layers", drawn, ftype))
    controls.append(Control(f"last layers {_listed(last)}", "last layers", last, ftype))
    return controls


def _about_the_same(cut: int, base: int, sizes: Mapping[str, int]) -> list[str]:
    """The largest type not above the cut, and the nearest above it if that is close."""
    known = sorted((size, name) for name, size in sizes.items() if size < base)
    below = [name for size, name in known if size <= cut]
    above = [name for size, name in known if cut < size <= ABOUT * cut]
    chosen = below[-1:] + above[:1]
    return chosen or [name for _, name in known[:1]]


def _listed(layers: Sequence[int]) -> str:
    """`3-4, 7`: runs folded."""
    parts: list[str] = []
    run: list[int] = []
    for layer in [*layers, None]:
        if run and layer != run[-1] + 1:
            parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
            run = []
        if layer is not None:
            run.append(layer)
    return ", ".join(parts)


def measure_controls(
    cut: SurgeryScore,
    controls: Sequence[Control],
    *,
    build: Callable[[Control], Path],
    measure: Callable[[Path], SurgeryScore],
    done: Callable[[Path], None],
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Outcome]:
    """Build, measure and compare every control; one that cannot be built says why.

    Args:
        build: writes a control's file and returns its path.
        measure: the suite on a file, with the settings of the cut's own run.
        done: called with each file after it was measured (to delete it).
    """
    raw: list[Outcome] = []
    for number, control in enumerate(controls):
        if progress is not None:
            progress(control.name, number, len(controls))
        try:
            path = build(control)
        except GGSurgeryError as error:
            raw.append(Outcome(control, refused=error.problem))
            continue
        try:
            size = path.stat().st_size
            score = measure(path)
            against = compare_surgery(cut, score)[0]
            raw.append(Outcome(control, size, score, against))
        except GGSurgeryError as error:
            raw.append(Outcome(control, refused=error.problem))
        finally:
            done(path)
    return corrected(raw)


def corrected(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Holm's correction over all controls that were measured."""
    p_values = statistics.holm([o.comparison.p_value for o in outcomes if o.comparison])
    rest = iter(p_values)
    return [
        Outcome(o.control, o.bytes, o.score, o.comparison, next(rest)) if o.comparison else o
        for o in outcomes
    ]


def verdict(cut: SurgeryScore, outcomes: Sequence[Outcome]) -> str:
    """One line: whether the cut beats the controls; `yes`, `no`, or `not shown`."""
    measured = [o for o in outcomes if o.comparison is not None]
    if not measured:
        return "Verdict: no control could be measured, so nothing is known about the cut's worth."
    wins = [o for o in measured if o.verdict == "the cut wins"]
    losses = [o for o in measured if o.verdict == "the control wins"]
    ties = [o for o in measured if o not in wins and o not in losses]
    answer = "no" if losses else "not shown" if ties else "yes"
    parts = []
    if losses:
        parts.append(f"is beaten by {_names(losses)}")
    if ties:
        parts.append(f"is not distinguishable at n = {cut.n} from {_names(ties)}")
    if wins:
        parts.append(f"beats {len(wins)} of {len(measured)} controls")
    missing = len(outcomes) - len(measured)
    note = f" ({missing} could not be built)" if missing else ""
    return f"Verdict: {answer}, the cut ({cut.total:.1f}) {' and '.join(parts)}{note}."


def _names(outcomes: Sequence[Outcome]) -> str:
    return "; ".join(map(_with_score, outcomes))


def _with_score(outcome: Outcome) -> str:
    assert outcome.score is not None
    return f"{outcome.control.name} ({outcome.score.total:.1f})"
