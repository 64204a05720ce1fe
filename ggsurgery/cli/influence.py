"""influence: what each layer does to the hidden state, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click

from ..arch import rules_for
from ..errors import PlanError
from ..files.text import read_corpus
from ..find.influence import Influence
from ..find.influence import influence as measure
from ..ggufio.header import read_header
from ..jobs import cautions
from ..measure.results.envelope import envelope
from ..measure.windows import Windows
from ..runtime import worker
from ..runtime.engine import Engine
from ._files import FILE
from ._measuring import force_plot_option, plot_option
from ._output import echo, json_option, print_json, table, warn
from ._progress import progress_bar
from ._texts import ctx_option, parse_special_option, text_option, threads_option


@click.command()
@click.argument("file", metavar="FILE", type=FILE)
@text_option("UTF-8 text that runs through the model.", required=True)
@click.option("--span", type=click.IntRange(1), metavar="N", help="Rank every span of N layers.")
@click.option(
    "--tokens",
    default="last",
    show_default=True,
    type=click.Choice(["last", "all"]),
    help="Where the angular distance is taken: at the last token of each window (as published; "
    "few samples, so give many windows), or at all.",
)
@ctx_option("Tokens of a window.", least=8)
@click.option(
    "--windows", default=8, show_default=True, type=click.IntRange(1), help="Windows of the text."
)
@plot_option
@force_plot_option
@parse_special_option
@threads_option
@json_option
def influence(
    file: Path,
    text: Path,
    span: int | None,
    tokens: Literal["last", "all"],
    ctx: int,
    windows: int,
    plot: Path | None,
    parse_special: bool,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure what each layer changes, in one forward pass.

    Block influence is 1 − cos(input, output) of a layer: near 0, it changes little. The
    numbers are those that `delete --layer` takes. A small influence is a hint, not a proof:
    `scan` measures the cut itself.

    \b
    Example:
      ggsurgery influence model.gguf --text calibration.txt
      ggsurgery influence model.gguf --text calibration.txt --span 5 --plot influence.png
    """
    from ..find.plot import check_plot, save_plot

    if plot is not None:
        check_plot(plot, (file, text), force=force)
    header = read_header(file)
    n_layers = header.n_layers - rules_for(header, allow_unknown=True).n_tail(header)
    if span is not None and span > n_layers:
        raise PlanError("no such span", file=file, expected=f"1 to {n_layers} layers", found=span)
    words = read_corpus(text)
    warn(*cautions.of_context(file, ctx))
    with progress_bar(file.name, "window") as progress:
        found = worker.run(
            influence_of_file,
            file,
            words,
            ctx,
            windows,
            tokens,
            threads,
            parse_special,
            progress=progress,
        )
    if plot is not None:
        save_plot(found.to_json(span), plot, force=force)
    if as_json:
        settings = {"n_ctx": ctx, "n_windows": windows, "parse_special": parse_special or None}
        print_json(envelope("influence", file, settings, text) | found.to_json(span))
    else:
        _show(found, span)
    if found.sink is not None:
        warn(
            f"layer {found.sink} makes the attention sink (the first position's norm grows to "
            f"{found.first_norms[found.sink]:.0f}, the others' is {found.norms[found.sink]:.0f}): "
            "cutting it usually breaks the model, however small its influence"
        )


def influence_of_file(
    path: Path,
    text: str,
    n_ctx: int,
    n_windows: int,
    tokens: Literal["last", "all"],
    n_threads: int | None,
    parse_special: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Influence:
    """Open a file and measure it; made to be run by `runtime.worker.run`."""
    size = max(64, n_ctx)
    with Engine.open(path, n_ctx=size, n_batch=size, n_threads=n_threads) as engine:
        windows = Windows.of_text(engine, text, n_ctx, n_windows, parse_special=parse_special)
        return measure(engine, windows.inputs, tokens=tokens, progress=progress)


def _show(found: Influence, span: int | None) -> None:
    order = found.ranked()
    rows = [
        (
            layer,
            f"{found.block[layer]:.5f}",
            None if found.n_windows < 2 else f"± {found.block_stderr[layer]:.5f}",
            order.index(layer) + 1,
            f"{found.angular[layer, 1]:.4f}",
            f"{found.norms[layer]:.1f}",
            f"{found.first_norms[layer]:.1f}",
            "makes the attention sink" if layer == found.sink else "",
        )
        for layer in range(found.n_layers)
    ]
    header = ("layer", "influence", "error", "rank", "angular/π", "norm", "first norm", "")
    echo(table(rows, header))
    if span is not None:
        echo()
        spans = [
            (
                f"{first}-{first + span - 1}",
                f"{distance:.4f}",
                "cuts the attention sink" if found.cuts_sink(first, span) else "",
            )
            for first, distance in found.spans(span)[:10]
        ]
        echo(table(spans, (f"span of {span}", "angular/π", "")))
