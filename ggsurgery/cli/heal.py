"""heal: cut layers and let the layer in front take over, fitted by least squares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ..evaluate.perplexity import read_text
from ..heal import FIRST, RIDGE, Healed, Method
from ..heal import heal as run_heal
from ..plan.text import parse_layers
from ..runtime import worker
from ._files import FILE
from ._output import note, table
from ._progress import progress_bar
from ._surgery import Options, in_out, surgery_options
from ._writing import write_recipe


@click.command()
@surgery_options
@click.option("--layer", required=True, metavar="LIST", help="Layers to cut: 12-16 or 5,12-14.")
@click.option(
    "--text", required=True, type=FILE, help="UTF-8 calibration text; report on another one."
)
@click.option(
    "--method",
    default="refit",
    show_default=True,
    type=click.Choice(["refit", "tw"]),
    help="refit: solve for ffn_down itself. tw: a linear map folded into it (ReplaceMe).",
)
@click.option(
    "--tokens", default=32768, show_default=True, type=click.IntRange(64), help="Tokens to fit on."
)
@click.option(
    "--ctx", default=512, show_default=True, type=click.IntRange(8), help="Tokens of a window."
)
@click.option(
    "--ridge",
    type=click.FloatRange(0, min_open=True),
    help=f"λ relative to the Gram matrix's mean diagonal; default {RIDGE['refit']:g}.",
)
@click.option(
    "--first", default=FIRST, show_default=True, type=click.FloatRange(0, min_open=True),
    help="How many times the first position of a window counts (the attention sink).",
)  # fmt: skip
@click.option("--sidecar", type=FILE, help="Write the fitted arrays here too (.npz).")
@click.option("--threads", type=click.IntRange(1), help="Default: all that this process may use.")
@in_out
def heal(
    options: Options,
    source: Path,
    out: Path,
    layer: str,
    text: Path,
    method: Method,
    tokens: int,
    ctx: int,
    ridge: float | None,
    first: float,
    sidecar: Path | None,
    threads: int | None,
) -> None:
    """Cut layers and heal the cut without training.

    The projection `ffn_down` of the layer in front of each cut is refitted so that the
    hidden state behind the cut comes out as it did before. No tensor is added: the result
    is an ordinary file. IN is the uncut model.

    \b
    Example:
      ggsurgery heal --layer 12-16 --text calibration.txt in.gguf out.gguf
    """
    layers = parse_layers(layer)
    words = read_text(text)
    with progress_bar("heal", "window") as progress:
        found = worker.run(
            heal_of_file, source, layers, words, method, tokens, ctx, ridge, first, threads,
            options.allow_unknown_arch, progress=progress,
        )  # fmt: skip
    if sidecar is not None and not options.dry_run:
        found.sidecar.save(sidecar, force=options.force)
    if not options.as_json:
        _show(found)
    write_recipe(
        found.recipe, source, out, options, figures={"heal": found.to_json()}, given=found.sidecar
    )


def heal_of_file(
    path: Path,
    layers: tuple[int, ...],
    text: str,
    method: Method,
    n_tokens: int,
    n_ctx: int,
    ridge: float | None,
    first: float,
    n_threads: int | None,
    allow_unknown_arch: bool,
    progress: Callable[[int, int], object] | None = None,
) -> Healed:
    """Made to be run by `runtime.worker.run`."""
    return run_heal(
        path, layers, text, method=method, n_tokens=n_tokens, n_ctx=n_ctx, ridge=ridge,
        first=first, n_threads=n_threads, allow_unknown_arch=allow_unknown_arch,
        progress=progress,
    )  # fmt: skip


def _show(found: Healed) -> None:
    rows = [
        (
            f"{fit.cut.first}-{fit.cut.last}",
            fit.cut.carrier,
            fit.tokens,
            f"{fit.before:.4f}",
            f"{fit.after:.4f}",
        )
        for fit in found.fits
    ]
    header = ("cut", "carried by", "tokens", "residual bare", "residual healed")
    click.echo(table(rows, header))
    note("residuals are shares of what the cut layers and the carrier's feed-forward did, on "
         "the calibration text; measure perplexity on another one")  # fmt: skip
