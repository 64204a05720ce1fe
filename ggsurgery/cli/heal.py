"""heal: cut layers, or take a cut, and refit what is left by least squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..compensate.fit import Healed, check_wins
from ..compensate.fit import heal as run_heal
from ..compensate.pair import recipe_of_pair
from ..compensate.settings import DEFAULT, METHODS, Method, Settings
from ..errors import PlanError
from ..files.text import read_corpus
from ..ggufio.types import type_id
from ..jobs import cautions
from ..plan.recipe import Recipe, load_recipe
from ..plan.text import parse_layers
from ..runtime import worker
from ._blend import out_type_option
from ._files import FILE
from ._output import echo, note, table, warn
from ._progress import progress_bar
from ._surgery import Options, check_early, list_option, operate, surgery_options
from ._texts import ctx_option, parse_special_option, text_option, threads_option


class NumberOrAuto(click.ParamType):  # type: ignore[type-arg]
    """A number, or `auto` (None)."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind, self.name = kind, "auto|N" if kind is int else "auto|λ"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if value == "auto":
            return None
        try:
            number = self.kind(value)
        except ValueError:
            number = -1
        if number < 0 or (self.kind is float and not number > 0):
            what = "a whole number from 0 on" if self.kind is int else "a number above 0"
            self.fail(f"expected auto or {what}, found {value!r}", param, ctx)
        return number


@click.command()
@surgery_options
@list_option("layer", "LIST", "Layers to cut: 12-16 or 5,12-14.", required=False)
@click.option("--recipe", type=FILE, help="Or a recipe of operations that cut, merge or repeat.")
@text_option("UTF-8 calibration text; report on another one.", required=True)
@click.option(
    "--method",
    default=DEFAULT.method,
    show_default=True,
    type=click.Choice(METHODS),
    help="refit: solve for ffn_down itself. tw: a linear map folded into it (ReplaceMe). scale: "
    "one factor a cut (Prune&Comp), for any architecture.",
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
    "--sweep",
    default="auto",
    show_default=True,
    type=NumberOrAuto(int),
    help="How many kept layers behind each cut are refitted too; auto: as many as help on "
    "held-out text.",
)
@click.option(
    "--also", type=click.Choice(["attention"]), help="Refit attn_output of these layers too."
)
@click.option(
    "--ridge",
    default="auto",
    show_default=True,
    type=NumberOrAuto(float),
    help="λ relative to the Gram matrix's mean diagonal: more keeps closer to the bare cut.",
)
@click.option(
    "--first",
    default=DEFAULT.first,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How many times the first position of a window counts (the attention sink).",
)
@out_type_option
@click.option("--cut-again", is_flag=True, help="Take a file that was cut before.")
@click.option("--few-tokens", is_flag=True, help="Fit even on too few tokens for the width.")
@click.option("--sidecar", type=FILE, help="Write the fitted arrays here too (.npz).")
@threads_option
@click.argument("files", metavar="IN [CUT]", nargs=-1, required=True, type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def heal(
    options: Options,
    files: tuple[Path, ...],
    out: Path,
    layer: str | None,
    recipe: Path | None,
    text: Path,
    method: Method,
    tokens: int,
    ctx: int,
    parse_special: bool,
    sweep: int | None,
    also: str | None,
    ridge: float | None,
    first: float,
    out_type: str | None,
    cut_again: bool,
    few_tokens: bool,
    sidecar: Path | None,
    threads: int | None,
) -> None:
    """Cut layers and heal the cut without training.

    The projection `ffn_down` of the layer in front of each cut is refitted so that the
    hidden state behind the cut comes out as it did before; then the next kept layers are
    refitted too, as long as that helps on held-out text. No tensor is added: the result
    is an ordinary file. IN is the uncut model; the cut is --layer, a --recipe, or a file
    CUT that was made from IN earlier. A cut that healing does not help is not written
    without --force.

    \b
    Example:
      ggsurgery heal --layer 12-16 --text calibration.txt in.gguf out.gguf
      ggsurgery heal --text calibration.txt in.gguf merged.gguf healed.gguf
    """
    source, cut = files[0], files[1] if len(files) == 2 else None
    spared = [p for p in (cut, recipe, text) if p]
    check_early((source,), out, options, sidecar, spared=spared)
    if len(files) > 2 or sum(given is not None for given in (layer, recipe, cut)) != 1:
        raise PlanError(
            "heal needs one cut", expected="--layer, --recipe or a file CUT between IN and OUT"
        )
    layers = () if layer is None else parse_layers(layer)
    made: Recipe | None = None
    if recipe is not None:
        made = load_recipe(recipe)
    elif cut is not None:
        made = recipe_of_pair(source, cut)
    words = read_corpus(text)
    warn(*cautions.of_context(source, ctx))
    settings = Settings(
        method, tokens, ctx, ridge, first, parse_special, sweep, also == "attention"
    )
    with progress_bar("heal", "window") as progress:
        found = worker.run(
            run_heal,
            source,
            layers,
            words,
            settings,
            recipe=made,
            n_threads=threads,
            allow_unknown_arch=options.allow_unknown_arch,
            out_type=None if out_type is None else type_id(out_type),
            cut_again=cut_again,
            few_tokens=few_tokens,
            any_cut=options.force,
            progress=progress,
        )
    if not options.as_json:
        _show(found)
    if not options.force:
        check_wins(found)
    if sidecar is not None and not options.dry_run:
        found.sidecar.save(sidecar, inputs=(source, text), force=options.force)
    operate(
        options.recipe(found.recipe.steps, out_type=out_type),
        (source,),
        out,
        options,
        found.sidecar,
        spared=spared,
        figures={"heal": found.to_json()},
    )


def _show(found: Healed) -> None:
    rows = []
    for fit in found.fits:
        unseen = ("–", "–")
        if fit.unseen is not None:
            unseen = (f"{fit.unseen.before:.4f}", f"{fit.unseen.after:.4f}")
        rows.append(
            (
                fit.place.describe(),
                f"{fit.number} {fit.tensor.removesuffix('.weight')}",
                f"{fit.ridge:g}",
                f"{fit.before:.4f}",
                f"{fit.after:.4f}",
                *unseen,
            )
        )
    if rows:
        header = ("uncut layers", "refitted", "ridge", "before", "after", "held-out", "after")
        echo(table(rows, header))
        note(
            f"before and after: the error of the state as a share of what the uncut layers did, "
            f"on {found.fits[0].tokens:,} tokens; held-out: on text that no fit has seen"
        )
    for number, factor in found.swept.scales:
        echo(f"state behind layer {number}: × {factor:.4f}")
    losses = found.losses
    if losses is not None:
        echo(
            f"loss on {found.windows[1]} held-out windows: {losses.bare:.4f} bare, "
            f"{losses.healed:.4f} healed"
        )
        if losses.unrounded is not None:
            echo(
                f"of that, {losses.healed - losses.unrounded:+.4f} comes from the rounding of the "
                "refitted tensors to their type (--out-type f16 avoids it)"
            )
    for fit in found.fits:
        if fit.overfits:
            warn(
                f"layer {fit.number}: the correction makes tokens that it was not fitted on "
                "worse: give more --tokens, or more --ridge"
            )
