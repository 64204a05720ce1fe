"""prune-depth: choose the layers to cut, and cut them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from ..arch import rules_for
from ..errors import GGSurgeryError
from ..find.prune_depth import By, Choice, choose, how_many
from ..ggufio.header import read_header
from ..jobs import cautions
from ..plan.text import parse_layers
from ..runtime import worker
from ._files import FILE
from ._measuring import METRIC_HELP, files_of, measuring_options, setup_of
from ._output import echo, note, table, warn
from ._progress import progress_bar
from ._surgery import Options, check_early, in_out, operate, surgery_options


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
    "--metric",
    default="perplexity",
    show_default=True,
    help="What scan and greedy choose by, and what the cut is measured with: " + METRIC_HELP,
)
@click.option("--keep", metavar="LIST", help="Layers that stay, such as the attention sink's.")
@click.option(
    "--tokens",
    default="last",
    show_default=True,
    type=click.Choice(["last", "all"]),
    help="Of angular: at the last token of each window (few samples: give many windows), or "
    "at all tokens.",
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
    keep: str | None,
    tokens: Literal["last", "all"],
    journal: Path | None,
) -> None:
    """Cut whole layers, chosen by measurement.

    A quarter of the layers costs every model a lot, and a lower quantization of the whole
    model often costs less for the same bytes: `evaluate --baseline` compares.

    \b
    Example:
      ggsurgery prune-depth --share 0.25 --by greedy --text calibration.txt in.gguf out.gguf
      ggsurgery prune-depth --layers 4 --by influence --text calibration.txt in.gguf out.gguf
      ggsurgery prune-depth --layers 8 --by angular --keep 11 --text cal.txt in.gguf out.gguf
    """
    kept = () if keep is None else parse_layers(keep)
    header = read_header(source)
    n_layers = header.n_layers - rules_for(header, allow_unknown=True).n_tail(header)
    count = how_many(n_layers, layers, share)
    setup = setup_of(source, metric, measuring, allow_unknown_arch=options.allow_unknown_arch)
    spared = [p for p in (*files_of(setup), journal) if p is not None]
    check_early((source,), out, options, spared=spared)
    if setup.text is None and (by in ("influence", "angular") or setup.needs_text):
        raise GGSurgeryError("a text is needed", hint="Give one with --text FILE")
    with progress_bar(f"prune-depth by {by}", "candidate") as progress:
        choice = worker.run(
            choose,
            setup,
            by,
            count,
            journal,
            progress=progress,
            file=source,
            keep=kept,
            tokens=tokens,
        )
    if not options.as_json:
        _show(choice, metric)
    if choice.sink in choice.layers:
        warn(
            f"layer {choice.sink}, which makes the attention sink, is among them: cutting it "
            f"usually breaks the model. --keep {choice.sink} leaves it"
        )
    if metric == "perplexity":
        warn(*cautions.of_loss(choice.before, choice.after))
    recipe, figures = options.recipe(choice.recipe.steps), {"choice": choice.to_json()}
    operate(recipe, (source,), out, options, spared=spared, figures=figures)


def _show(choice: Choice, metric: str) -> None:
    what = {
        "influence": "influence",
        "angular": "angular/π of the span",
        "scan": f"{metric} without it alone",
        "greedy": f"{metric} after the cut",
    }
    rows = [(i + 1, layer, f"{score:.5f}") for i, (layer, score) in enumerate(choice.rounds)]
    echo(table(rows, ("cut", "layer", what[choice.by])))
    echo(f"{metric}: {choice.before:.4f} uncut, {choice.after:.4f} cut")
    note("figures are of the calibration text: measure the result on another one")
