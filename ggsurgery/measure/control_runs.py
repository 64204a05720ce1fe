"""Build and measure the controls of a cut: other ways to spend the same bytes and layers.

`evaluate.controls` chooses and judges them; here they become files in a scratch folder, one at
a time, and the suite runs on each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import GGSurgeryError
from ..files import temporary
from ..ggufio.header import read_header
from ..plan.types import references
from ..runtime.quantize import plan as plan_quantization
from ..runtime.quantize import quantize
from ..surgery.lineage import plan_of
from ..surgery.prepare import prepare
from .controls import LADDER, Control, Outcome, choose_controls, measure_controls
from .results.facts import model_facts
from .suite.result import SurgeryScore

#: Told with the control's name, how many are done, and how many there are.
Start = Callable[[str, int, int], None]


def alternatives(file: Path, baseline: Path, *, n_random: int, seed: int) -> list[Control]:
    """The controls of a cut file, from both headers and llama.cpp's dry run.

    Raises:
        GGSurgeryError: a file cannot be read, or llama.cpp cannot quantize the baseline.
    """
    cut, base = model_facts(file), model_facts(baseline)
    assert cut.layers is not None and base.layers is not None
    assert cut.bytes is not None and base.bytes is not None
    planned = plan_quantization(baseline, list(LADDER), allow_requantize=True)
    return choose_controls(
        base.layers,
        base.layers - cut.layers,
        cut.bytes,
        {p.result.ftype: p.result.n_bytes for p in planned},
        base_bytes=base.bytes,
        ftype=cut.quantization if cut.quantization != base.quantization else None,
        removed=_removed(file, baseline),
        n_random=n_random,
        seed=seed,
    )


def measure_alternatives(
    score: SurgeryScore,
    controls: list[Control],
    baseline: Path,
    measure: Callable[[Path], SurgeryScore],
    start: Start | None = None,
) -> list[Outcome]:
    """Build each control in a scratch folder and measure it; one at a time is on the disk.

    Args:
        score: of the cut; measure: the suite on a file, with the settings of that score.
    """
    with temporary.Folder("controls") as scratch:

        def remove(path: Path) -> None:
            if path.parent == scratch:  # never a file of the user's
                path.unlink()

        return measure_controls(
            score,
            controls,
            build=lambda control: _build(control, baseline, scratch),
            measure=measure,
            done=remove,
            progress=start,
        )


def _build(control: Control, baseline: Path, folder: Path) -> Path:
    """Write a control: delete its layers, then quantize."""
    path = baseline
    if control.layers:
        path = folder / "layers.gguf"
        with prepare(control.recipe, [baseline]) as operation:
            operation.write(path)
    if control.ftype is None:
        return path
    out = folder / "control.gguf"
    quantize(path, out, control.ftype, allow_requantize=True)
    if path != baseline:
        path.unlink()
    return out


def _removed(file: Path, baseline: Path) -> tuple[int, ...]:
    """The base's layers that a file made by ggsurgery lacks; empty if its header does not say."""
    base = read_header(baseline)
    try:
        plan = plan_of(file, base)
    except GGSurgeryError:  # made elsewhere, or from something else than this base
        return ()
    kept = {ref.index for block in plan.stack for ref in references(block)}
    return tuple(i for i in range(base.n_layers) if i not in kept)
