"""The winner of a search, measured again on a set that the search has not seen, with controls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...arch import rules_for
from ...errors import GGSurgeryError
from ...files.progress import Progress
from ...ggufio.header import read_header
from ...measure.controls import (
    N_RANDOM,
    UNCUT,
    Control,
    Outcome,
    choose_controls,
    corrected,
    ladder_sizes,
)
from ...measure.registry import Direction
from ...measure.results.comparison import Difference, paired
from ...measure.results.score import Score
from ...measure.setup import Setup
from ...measure.variants.batch import measure_all
from ...plan.types import Plan, main_reference
from ...runtime.quantize import quantize
from ...surgery.prepare import prepare
from .run import Row
from .space import alike


@dataclass(frozen=True)
class Verdict:
    """The winner and its controls on the reporting set.

    `to_base` is the winner against the uncut model; `controls` hold each control against the
    winner, with p values corrected for their number.
    """

    winner: Row
    base: Score
    measured: Score
    to_base: Difference
    controls: tuple[Outcome, ...]
    tried: int
    direction: Direction
    metric: str = "perplexity"

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Controls that could not be measured and so were not compared."""
        return tuple(o.control.name for o in self.controls if not o.measured)

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """Measured controls that the winner is not distinguishably better than."""
        return tuple(o.control.name for o in self.controls if o.measured and not o.cut_wins)

    @property
    def rule(self) -> str:
        """How a difference is judged, in words."""
        tests = {o.difference.test for o in self.controls if o.difference and o.difference.test}
        return f"{' or '.join(sorted(tests)) or 'no paired test'}, p < 0.05 after Holm"

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "winner": self.winner.to_json(),
            "configurations_tried": self.tried,
            "uncut": _figures(self.base),
            "measured": _figures(self.measured),
            "difference_to_uncut": {"value": self.to_base.value, "stderr": self.to_base.stderr},
            "controls": [_control(outcome) for outcome in self.controls],
            "unbeaten_controls": list(self.unbeaten),
        }


def _figures(score: Score | None) -> dict[str, Any] | None:
    return None if score is None else {"value": score.value, "stderr": score.stderr, "n": score.n}


def _control(outcome: Outcome) -> dict[str, Any]:
    d = outcome.difference
    return {
        "name": outcome.control.name,
        "measured": _figures(outcome.score if isinstance(outcome.score, Score) else None),
        "difference_to_winner": None
        if d is None
        else {
            "value": d.value,
            "stderr": d.stderr,
            "p_value": d.p_value,
            "p_corrected": outcome.p_corrected,
        },
        "error": outcome.refused,
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
    """Measure the winner and its controls.

    Args:
        setup: as in the search, but with the reporting set.
        scratch: a folder for the quantized controls, which are removed again.

    Raises:
        GGSurgeryError: the winner cannot be measured.
    """
    controls = _controls(setup, winner, seed)
    built = [(control, recipe) for control in controls if (recipe := control.recipe) is not None]
    recipes = [winner.recipe, *(recipe for _, recipe in built)]
    base, trials = measure_all(setup, recipes, journal, progress=progress)
    first = trials[0]
    if first.measured is None or first.difference is None:
        raise GGSurgeryError(f"the winner cannot be measured: {first.error}", file=setup.path)
    direction = setup.asked.direction
    outcomes = []
    for (control, _), trial in zip(built, trials[1:], strict=True):
        outcomes.append(_outcome(control, trial.measured, first.measured, direction, trial.error))
    for control in (c for c in controls if c.recipe is None):
        if control.kind == UNCUT:  # measured already
            outcomes.append(_outcome(control, base, first.measured, direction))
            continue
        try:
            score = _quantized(setup, control, scratch)
        except GGSurgeryError as error:
            outcomes.append(Outcome(control, direction=direction, refused=str(error)))
        else:
            outcomes.append(_outcome(control, score, first.measured, direction))
    return Verdict(
        winner,
        base,
        first.measured,
        first.difference,
        tuple(corrected(outcomes)),
        tried,
        direction,
        setup.metric,
    )


def _controls(setup: Setup, winner: Row, seed: int) -> list[Control]:
    header = read_header(setup.path)
    n_tail = rules_for(header, allow_unknown=True).n_tail(header)
    before = Plan.identity(header.n_layers, n_tail)
    after = winner.recipe.apply(before)
    n_trunk = len(before.blocks)
    options = {"allow_unknown_arch": True} if setup.allow_unknown_arch else {}
    options |= dict(winner.recipe.options)
    recipe = replace(winner.recipe, options=tuple(options.items()))
    with prepare(recipe, [setup.path]) as operation:
        cut_bytes = operation.layout.n_bytes
    base_bytes = sum(header.file_size)
    kept = {main_reference(block).index for block in after.blocks}
    return choose_controls(
        n_trunk,
        n_trunk - len(after.blocks),
        cut_bytes,
        ladder_sizes(setup.path) if cut_bytes < base_bytes else {},
        base_bytes=base_bytes,
        seed=seed,
        removed=[layer for layer in range(n_trunk) if layer not in kept],
        alike=alike(winner.recipe, n_trunk, N_RANDOM, seed),
    )


def _outcome(
    control: Control,
    score: Score | None,
    winner: Score,
    direction: Direction,
    error: str | None = None,
) -> Outcome:
    difference = None if score is None else paired(score, winner)
    return Outcome(control, None, score, difference, direction, refused=error)


def _quantized(setup: Setup, control: Control, scratch: Path) -> Score:
    """The figure of the uncut model with fewer bits."""
    path = scratch / "control.gguf"
    assert control.ftype is not None
    try:
        quantize(setup.path, path, control.ftype, allow_requantize=True, force=True)
        measured, _ = measure_all(replace(setup, path=path), [], scratch / f"{control.ftype}.jsonl")
    finally:
        path.unlink(missing_ok=True)
    return measured
