"""prune-depth: choose the layers to cut, and cut them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..find.prune_depth import Choice
from ..jobs.candidates import envelope_of
from ..jobs.prune_depth import PruneDepthRequest
from ..measure.results.comparison import Cost, is_logarithmic
from ..plan.text import format_layers
from ._measuring import in_words
from ._output import echo, note, table
from ._requests import Maker, perform
from ._surgery import Surgery, check_early, in_out, operate, surgery_options


@click.command("prune-depth")
@surgery_options(PruneDepthRequest, skip=("file",))
@in_out
def prune_depth(surgery: Surgery, make: Maker, source: Path, out: Path) -> None:
    """Cut whole layers, chosen by measurement.

    A quarter of the layers costs every model a lot, and a lower quantization of the whole
    model often costs less for the same bytes: `evaluate --baseline` compares.

    \b
    Example:
      ggsurgery prune-depth --share 0.25 --by greedy --text calibration.txt in.gguf out.gguf
      ggsurgery prune-depth --layers 4 --by influence --text calibration.txt in.gguf out.gguf
      ggsurgery prune-depth --layers 8 --by angular --keep 11 --text cal.txt in.gguf out.gguf
    """
    request = make(PruneDepthRequest, file=source)
    check_early((source,), out, surgery, spared=request.inputs)
    choice = perform(request, f"prune-depth by {request.by}", "candidate").choice
    if not surgery.as_json:
        _show(choice, request.metric)
    figures: dict[str, Any] = {}
    if surgery.as_json:
        figures = envelope_of("prune-depth", request.setup(request.metric))
    figures["choice"] = choice.to_json()
    operate(surgery, choice.recipe.steps, [source], out, spared=request.inputs, figures=figures)


def _cost(cost: Cost, metric: str) -> str:
    """Difference and test of the whole cut; empty where its items give no test."""
    if cost.p_corrected is None:
        return ""
    what = "log ratio" if is_logarithmic(metric) else "difference"
    tried = f"Holm, {cost.n_candidates} cuts measured" if cost.n_candidates > 1 else "one cut"
    return (
        f"; {what} {in_words(cost.difference)}, p = {cost.p_corrected:.4f} "
        f"({cost.difference.test}, n = {cost.difference.n}; {tried})"
    )


def _show(choice: Choice, metric: str) -> None:
    what = {
        "influence": "influence",
        "angular": "angular/π of the span",
        "scan": f"{metric} without it alone",
        "greedy": f"{metric} after the cut",
        "healed": f"{metric} after the cut and a quick refit",
    }
    rows = [(i + 1, layer, f"{score:.5f}") for i, (layer, score) in enumerate(choice.rounds)]
    echo(table(rows, ("cut", "layer", what[choice.by])))
    echo(f"{metric}: {choice.before:.4f} uncut, {choice.after:.4f} cut{_cost(choice.cost, metric)}")
    note("figures are of the calibration text: measure the result on another one")
    if choice.by == "healed":
        layers = format_layers(sorted(choice.layers))
        note(f"OUT is the bare cut; this heals it: ggsurgery heal --layer {layers} IN HEALED")
