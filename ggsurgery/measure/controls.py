"""Controls: cheap alternatives with the same bytes or the same number of layers.

A cut is worth something only if it beats the cheap alternatives:

    uncut           the uncut model itself, where the operation saves no bytes
    same bytes      the uncut model at the next lower quantization of about the cut's size
    random layers   as many layers deleted, chosen by a seeded generator, several times
    last layers     as many deleted just before the last one

`evaluate` and recipes judge a cut by the suite's score, `search` judges its winner by the
objective; both choose the controls here, and call one better or worse by Holm-corrected
paired tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..errors import GGSurgeryError
from ..files import temporary
from ..files.progress import NamedProgress
from ..ggufio.header import read_header
from ..plan.recipe import Recipe, step
from ..plan.text import format_layers
from ..plan.types import references
from ..runtime.quantize import plan as plan_quantization
from ..runtime.quantize import quantize
from ..surgery.lineage import plan_of
from ..surgery.prepare import prepare
from .registry import Direction
from .results.comparison import ALPHA, Difference
from .results.comparison import corrected as holm_corrected
from .results.facts import model_facts
from .results.statistics import Interval
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
        kind: which of those above; `random operations` where no layer was cut.
        layers: layers to delete from the base, as numbered there.
        ftype: file type to quantize the result to, None for the base's own.
        operations: what is done instead of deleting layers.
    """

    name: str
    kind: Literal["uncut", "same bytes", "random layers", "random operations", "last layers"]
    layers: tuple[int, ...] = ()
    ftype: str | None = None
    operations: Recipe | None = None

    @property
    def recipe(self) -> Recipe | None:
        """Its operations; None of the uncut model."""
        if self.layers:
            return Recipe((step("delete", layer=",".join(map(str, self.layers))),))
        return self.operations


class Figure(Protocol):
    """The result of measuring a control: a `Score` or a `SurgeryScore`."""

    @property
    def value(self) -> float: ...
    @property
    def n(self) -> int: ...
    @property
    def interval(self) -> Interval | None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A control that was measured, or the reason why it could not be.

    Args:
        bytes: of the control's file, where one was made.
        score: the control's figure.
        difference: the control against the cut.
        direction: which values of the figure are better.
        p_corrected: Holm's, over all controls that were measured.
        refused: why it could not be built or measured.
    """

    control: Control
    bytes: int | None = None
    score: Figure | None = None
    difference: Difference | None = None
    direction: Direction = "higher"
    p_corrected: float | None = None
    refused: str | None = None

    @property
    def measured(self) -> bool:
        return self.score is not None and self.difference is not None

    @property
    def cut_wins(self) -> bool:
        """Whether the cut is distinguishably better than the control."""
        return self._sign < 0

    @property
    def control_wins(self) -> bool:
        return self._sign > 0

    @property
    def _sign(self) -> float:
        """Above 0 where the control wins, below where the cut does, 0 where neither is shown."""
        p, difference = self.p_corrected, self.difference
        if p is None or difference is None or p >= ALPHA:
            return 0.0
        return difference.value if self.direction == "higher" else -difference.value

    @property
    def verdict(self) -> str:
        """`the cut wins`, `the control wins`, or why neither is shown to win."""
        if not self.measured:
            return f"not built: {self.refused}"
        if self.cut_wins:
            return "the cut wins"
        if self.control_wins:
            return "the control wins"
        n = 0 if self.difference is None else self.difference.n
        return f"not distinguishable at n = {n}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.control.name,
            "kind": self.control.kind,
            "layers": list(self.control.layers),
            "type": self.control.ftype,
            "bytes": self.bytes,
            "score": None if self.score is None else self.score.value,
            "interval": _ends(self.score),
            "n": None if self.score is None else self.score.n,
            "difference": None if self.difference is None else self.difference.value,
            "p_value": None if self.difference is None else self.difference.p_value,
            "p_corrected": self.p_corrected,
            "verdict": self.verdict,
        }


def _ends(score: Figure | None) -> dict[str, float] | None:
    interval = None if score is None else score.interval
    return None if interval is None else interval.to_json()


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
    alike: Sequence[Recipe] = (),
) -> list[Control]:
    """The controls of one cut.

    Args:
        n_layers: of the base; n_removed: fewer layers that the cut has (0 or less: none).
        cut_bytes, base_bytes: file sizes.
        sizes: file size of the uncut base at each file type, from a dry run.
        ftype: the cut's file type where it differs from the base's: layer controls get it too.
        removed: the layers that the cut itself deleted, if known; no random draw repeats them.
        alike: recipes of the same operations at other places, where no layers were cut.

    Example:
        >>> [c.name for c in choose_controls(6, 2, 70, {"Q6_K": 60}, base_bytes=100, n_random=0)]
        ['Q6_K, uncut', 'last layers 3-4']
    """
    controls = [
        Control(f"{name}, uncut", "same bytes", ftype=name)
        for name in about_the_same(cut_bytes, base_bytes, sizes)
    ]
    if n_removed <= 0 and base_bytes <= ABOUT * cut_bytes:
        controls.insert(0, Control(UNCUT, "uncut"))
    if not 0 < n_removed < n_layers:
        others = [(f"random {recipe.describe()}", recipe) for recipe in alike]
        return [Control(n, "random operations", operations=r) for n, r in others] + controls
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
            controls.append(Control(f"random {_layers(drawn)}", "random layers", drawn, ftype))
    controls.append(Control(f"last layers {_layers(last)}", "last layers", last, ftype))
    return controls


def about_the_same(cut: int, base: int, sizes: Mapping[str, int]) -> list[str]:
    """The largest type not above the cut, and the nearest above it if that is close."""
    known = sorted((size, name) for name, size in sizes.items() if size < base)
    below = [name for size, name in known if size <= cut]
    above = [name for size, name in known if cut < size <= ABOUT * cut]
    chosen = below[-1:] + above[:1]
    return chosen or [name for _, name in known[:1]]


def _layers(layers: Sequence[int]) -> str:
    """`3-4, 7`."""
    return format_layers(layers).replace(",", ", ")


def ladder_sizes(path: Path) -> dict[str, int]:
    """File size at each type of the ladder, from one dry run.

    Raises:
        GGSurgeryError: llama.cpp cannot quantize the file.
    """
    planned = plan_quantization(path, list(LADDER), allow_requantize=True)
    return {p.result.ftype: p.result.n_bytes for p in planned}


def measure_controls(
    cut: SurgeryScore,
    controls: Sequence[Control],
    built: Callable[[Control], AbstractContextManager[Path]],
    measure: Callable[[Path], SurgeryScore],
    progress: NamedProgress | None = None,
) -> list[Outcome]:
    """Build, measure and compare every control; one that cannot be built has a reason.

    Args:
        built: a control's file, which is removed after measuring; see `building`.
        measure: the suite on a file, with the settings of the cut's own run.
    """
    raw: list[Outcome] = []
    for number, control in enumerate(controls):
        if progress is not None:
            progress(control.name, number, len(controls))
        try:
            with built(control) as path:
                size, score = path.stat().st_size, measure(path)
            raw.append(Outcome(control, size, score, against(cut, score)))
        except GGSurgeryError as error:
            raw.append(Outcome(control, refused=error.problem))
    return corrected(raw)


@contextmanager
def building(control: Control, baseline: Path) -> Iterator[Path]:
    """A control's file in a scratch folder: its operations done, then quantized."""
    with temporary.Folder("controls") as folder:
        path = baseline
        if control.recipe is not None:
            path = folder / "layers.gguf"
            with prepare(control.recipe, [baseline]) as operation:
                operation.write(path)
        if control.ftype is not None:
            out = folder / "control.gguf"
            quantize(path, out, control.ftype, allow_requantize=True)
            if path != baseline:
                path.unlink()
            path = out
        yield path


def against(cut: SurgeryScore, control: SurgeryScore) -> Difference:
    """The control's total against the cut's."""
    found = compare_surgery(cut, control)[0]
    return Difference(found.difference, None, found.p_value, found.interval, found.test, found.n)


def corrected(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Holm's correction over all controls that were measured."""
    p_values = holm_corrected([o.difference for o in outcomes])
    return [replace(o, p_corrected=p) for o, p in zip(outcomes, p_values, strict=True)]


def verdict(cut: SurgeryScore, outcomes: Sequence[Outcome]) -> str:
    """One line: whether the cut beats the controls; `yes`, `no`, or `not shown`."""
    measured = [o for o in outcomes if o.measured]
    if not measured:
        return "Verdict: no control could be measured, so nothing is known about the cut's worth."
    wins = [o for o in measured if o.cut_wins]
    losses = [o for o in measured if o.control_wins]
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
    return f"{outcome.control.name} ({outcome.score.value:.1f})"


def controls_of(file: Path, baseline: Path, *, n_random: int, seed: int) -> list[Control]:
    """The controls of a cut file, from both headers and llama.cpp's dry run.

    Raises:
        GGSurgeryError: a file cannot be read, or llama.cpp cannot quantize the baseline.
    """
    cut, base = model_facts(file), model_facts(baseline)
    assert cut.layers is not None and base.layers is not None
    assert cut.bytes is not None and base.bytes is not None
    return choose_controls(
        base.layers,
        base.layers - cut.layers,
        cut.bytes,
        ladder_sizes(baseline),
        base_bytes=base.bytes,
        ftype=cut.quantization if cut.quantization != base.quantization else None,
        removed=_removed(file, baseline),
        n_random=n_random,
        seed=seed,
    )


def _removed(file: Path, baseline: Path) -> tuple[int, ...]:
    """The base's layers that a file made by ggsurgery lacks; empty if its header has no record."""
    base = read_header(baseline)
    try:
        plan = plan_of(file, base)
    except GGSurgeryError:  # made elsewhere, or from something else than this base
        return ()
    kept = {ref.index for block in plan.stack for ref in references(block)}
    return tuple(i for i in range(base.n_layers) if i not in kept)
