"""heal: cut layers, or take a cut, and refit what is left by least squares."""

from __future__ import annotations

from pathlib import Path

import click

from ..compensate.fit import Healed, check_wins
from ..jobs.heal import HealRequest
from ..jobs.measured import envelope_of
from ._files import FILE
from ._output import echo, note, table
from ._requests import Maker, output_option, perform
from ._surgery import Surgery, check_early, list_option, operate, save_arrays, surgery_options


@click.command()
@list_option("layer", "LIST", "Layers to cut: 12-16 or 5,12-14.", required=False)
@surgery_options(HealRequest, also=("out_type",), skip=("file", "layer", "cut", "any_cut"))
@output_option("sidecar", "Also write the fitted arrays to this file (.npz).", old=("--sidecar",))
@click.argument("files", metavar="IN [CUT]", nargs=-1, required=True, type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def heal(
    surgery: Surgery,
    make: Maker,
    files: tuple[Path, ...],
    out: Path,
    layer: str | None,
    sidecar: Path | None,
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
    if len(files) > 2:
        raise click.UsageError(f"IN, at most one CUT, and OUT are expected: {len(files) + 1} files")
    source, cut = files[0], files[1] if len(files) == 2 else None
    request = make(HealRequest, file=source, cut=cut, layer=layer, any_cut=surgery.force)
    check_early((source,), out, surgery, sidecar, spared=request.inputs)
    found = perform(request, "heal", "window").healed
    if not surgery.as_json:
        show_fits(found)
    if not surgery.force:
        check_wins(found.losses)
    save_arrays(surgery, found.sidecar, sidecar, (source, *request.inputs))
    figures = envelope_of("heal", request) if surgery.as_json else {}
    operate(
        surgery,
        found.recipe.steps,
        [source],
        out,
        given=found.sidecar,
        spared=request.inputs,
        figures=figures | {"heal": found.to_json()},
    )


def show_fits(found: Healed) -> None:
    """The fits of a healed model, and what they are worth on held-out text."""
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
