"""prune-depth: choose the layers to cut, and cut them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..arch import rules_for
from ..errors import GGSurgeryError
from ..ggufio.header import read_header
from ..prune_depth import By, Choice, choose, how_many
from ..runtime import worker
from ._files import FILE
from ._measuring import METRIC_HELP, measuring_options, setup_of
from ._output import note, table, warn
from ._progress import progress_bar
from ._surgery import Options, in_out, surgery_options
from ._writing import write_recipe


@click.command("prune-depth")
@surgery_options
@click.option("--layers", type=click.IntRange(1), metavar="N", help="How many layers go.")
@click.option("--share", type=click.FloatRange(0, 1), help="Or which share of them, as 0.25.")
@click.option(
    "--by",
    default="greedy",
    show_default=True,
    type=click.Choice(["influence", "angular", "greedy", "scan"]),
    help="influence: least block influence. angular: the span of least angular distance. "
    "scan: missed least one by one. greedy: measured again after every cut.",
)
@click.option(
    "--metric", default="perplexity", show_default=True, help="Of scan and greedy: " + METRIC_HELP
)
@click.option(
    "--journal",
    type=FILE,
    metavar="JSONL",
    help="Keep the measurements of scan and greedy; the same command goes on.",
)
@measuring_options
@in_out
def prune_depth(
    measuring: dict[str, Any],
    options: Options,
    source: Path,
    out: Path,
    layers: int | None,
    share: float | None,
    by: By,
    metric: str,
    journal: Path | None,
) -> None:
    """Cut whole layers, chosen by measurement.

    A quarter of the layers costs every model a lot, and a lower quantization of the whole
    model often costs less for the same bytes: `evaluate --baseline` compares.

    \b
    Example:
      ggsurgery prune-depth --share 0.25 --by greedy --text calibration.txt in.gguf out.gguf
      ggsurgery prune-depth --layers 4 --by influence --text calibration.txt in.gguf out.gguf
    """
    header = read_header(source)
    n_layers = header.n_layers - rules_for(header, allow_unknown=True).n_tail(header)
    count = how_many(n_layers, layers, share)
    setup = setup_of(source, metric, measuring, allow_unknown_arch=options.allow_unknown_arch)
    if setup.text is None and (by in ("influence", "angular") or setup.needs_text):
        raise GGSurgeryError("a text is needed", hint="Give one with --text FILE")
    with progress_bar(f"prune-depth by {by}", "candidate") as progress:
        choice = worker.run(
            choose, setup, by, count, journal, progress=progress, file=source
        )  # fmt: skip
    if not options.as_json:
        _show(choice)
    if choice.sink in choice.layers:
        warn(f"layer {choice.sink}, which makes the attention sink, is among them")
    write_recipe(choice.recipe, source, out, options, figures={"choice": choice.to_json()})


def _show(choice: Choice) -> None:
    what = {"influence": "influence", "angular": "angular/π of the span"}
    header = ("cut", "layer", what.get(choice.by, "metric after the cut"))
    if choice.by == "scan":
        header = ("cut", "layer", "metric without it alone")
    rows = [(i + 1, layer, f"{score:.5f}") for i, (layer, score) in enumerate(choice.rounds)]
    click.echo(table(rows, header))
    note("figures are of the calibration text: measure the result on another one")
