"""heal: cut layers and let the layer in front take over, fitted by least squares."""

from __future__ import annotations

from pathlib import Path

import click

from ..compensate.fit import Healed, Method, Settings
from ..compensate.fit import heal as run_heal
from ..files.text import read_corpus
from ..jobs import cautions
from ..plan.text import parse_layers
from ..runtime import worker
from ._files import FILE
from ._output import echo, note, table, warn
from ._progress import progress_bar
from ._surgery import Options, check_early, in_out, list_option, operate, surgery_options
from ._texts import ctx_option, parse_special_option, text_option, threads_option

DEFAULT = Settings()


@click.command()
@surgery_options
@list_option("layer", "LIST", "Layers to cut: 12-16 or 5,12-14.")
@text_option("UTF-8 calibration text; report on another one.", required=True)
@click.option(
    "--method",
    default=DEFAULT.method,
    show_default=True,
    type=click.Choice(["refit", "tw"]),
    help="refit: solve for ffn_down itself. tw: a linear map folded into it (ReplaceMe).",
)
@click.option(
    "--tokens",
    default=DEFAULT.tokens,
    show_default=True,
    type=click.IntRange(64),
    help="Tokens to fit on. Memory does not grow with them.",
)
@ctx_option("Tokens of a window.", least=8, default=DEFAULT.ctx)
@parse_special_option
@click.option(
    "--ridge",
    default=DEFAULT.ridge,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="λ relative to the Gram matrix's mean diagonal: more keeps closer to the bare cut.",
)
@click.option(
    "--first",
    default=DEFAULT.first,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How many times the first position of a window counts (the attention sink).",
)
@click.option("--cut-again", is_flag=True, help="Take a file that was cut before.")
@click.option("--few-tokens", is_flag=True, help="Fit even on too few tokens for the width.")
@click.option("--sidecar", type=FILE, help="Write the fitted arrays here too (.npz).")
@threads_option
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
    parse_special: bool,
    ridge: float,
    first: float,
    cut_again: bool,
    few_tokens: bool,
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
    check_early((source,), out, options, sidecar, spared=(text,))
    layers = parse_layers(layer)
    words = read_corpus(text)
    warn(*cautions.of_context(source, ctx))
    with progress_bar("heal", "window") as progress:
        found = worker.run(
            run_heal,
            source,
            layers,
            words,
            Settings(method, tokens, ctx, ridge, first, parse_special),
            n_threads=threads,
            allow_unknown_arch=options.allow_unknown_arch,
            cut_again=cut_again,
            few_tokens=few_tokens,
            progress=progress,
        )
    if sidecar is not None and not options.dry_run:
        found.sidecar.save(sidecar, inputs=(source, text), force=options.force)
    if not options.as_json:
        _show(found)
    operate(
        options.recipe(found.recipe.steps),
        (source,),
        out,
        options,
        found.sidecar,
        spared=(text,),
        figures={"heal": found.to_json()},
    )


def _show(found: Healed) -> None:
    rows = [
        (
            f"{fit.cut.first}-{fit.cut.last}",
            fit.cut.carrier,
            fit.tokens,
            f"{fit.before:.4f}",
            f"{fit.after:.4f}",
            *(
                ("–", "–")
                if fit.unseen is None
                else (f"{fit.unseen.before:.4f}", f"{fit.unseen.after:.4f}")
            ),
        )
        for fit in found.fits
    ]
    header = (
        "cut",
        "carried by",
        "tokens",
        "residual bare",
        "residual healed",
        "held-out bare",
        "held-out healed",
    )
    echo(table(rows, header))
    note(
        "residuals are shares of what the cut layers and the carrier's feed-forward did, on the "
        "calibration text; held-out: its last windows, by a fit without them; measure "
        "perplexity on another text"
    )
    for fit in found.fits:
        if fit.overfits:
            warn(
                f"cut {fit.cut.first}-{fit.cut.last}: the correction makes tokens that it was not "
                "fitted on worse: give more --tokens, or more --ridge"
            )
