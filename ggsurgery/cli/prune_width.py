"""prune-width: remove feed-forward channels from every layer, and refit what is left."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from ..compensate.fit import check_wins
from ..compensate.width.prune import Narrowed
from ..compensate.width.size import describe
from ..errors import PlanError
from ..files.atomic import atomic_path
from ..files.shard_names import siblings
from ..jobs.measured import envelope_of
from ..jobs.prune_width import PruneWidthRequest
from ._output import echo, note, print_json
from ._requests import Maker, output_option, perform
from ._surgery import Surgery, check_early, in_out, operate, save_arrays, surgery_options
from .heal import show_fits


@click.command("prune-width")
@surgery_options(PruneWidthRequest, also=("out_type",), skip=("file", "any_refit"))
@output_option("sidecar", "Also write the fitted arrays to this file (.npz).", old=("--sidecar",))
@in_out
def prune_width(
    surgery: Surgery, make: Maker, source: Path, out: Path, sidecar: Path | None
) -> None:
    """Remove feed-forward channels from every layer, and refit what is left.

    Rows of ffn_gate and ffn_up leave as bytes, columns of ffn_down too; then ffn_down of each
    layer is refitted so that the state behind it comes out as in the uncut model. Every layer
    keeps the same number, so the result is an ordinary file that any llama.cpp loads.

    \b
    Example:
      ggsurgery prune-width --ffn 0.22 --text calibration.txt in.gguf out.gguf
      ggsurgery prune-width --ffn-channels 1024 --score magnitude --no-refit in.gguf out.gguf
    """
    request = make(PruneWidthRequest, file=source, any_refit=surgery.force)
    if sidecar is not None and not request.refit:
        raise click.UsageError("--out: nothing is fitted with --no-refit")
    check_early((source,), out, surgery, sidecar, spared=request.inputs)
    found = perform(request, "prune-width", "window").narrowed
    if not surgery.as_json:
        _show(found)
    healed = found.healed
    if healed is not None and not request.any_refit:
        check_wins(healed.losses)
    if healed is not None:
        save_arrays(surgery, healed.sidecar, sidecar, (source, *request.inputs))
    figures = envelope_of("prune-width", request) if surgery.as_json else {}
    if not found.recipe.steps:
        _copy(source, out, surgery, figures | {"width": found.to_json()})
        return
    operate(
        surgery,
        found.recipe.steps,
        [source],
        out,
        given=None if healed is None else healed.sidecar,
        spared=request.inputs,
        figures=figures | {"width": found.to_json()},
    )


def _copy(source: Path, out: Path, surgery: Surgery, figures: dict[str, Any]) -> None:
    """Write the input as it is, where no channel leaves."""
    if len(siblings(source)) > 1:
        raise PlanError(
            "nothing to remove, and the input is several files",
            file=source,
            hint="`ggsurgery keep` writes one file of them.",
        )
    if not surgery.dry_run:
        with atomic_path(out, inputs=(source,), force=surgery.force) as temporary:
            shutil.copyfile(source, temporary)
    if surgery.as_json:
        print_json(figures | {"out": None if surgery.dry_run else str(out)})
    else:
        note(f"{out}: no channel leaves, the bytes are those of {source.name}")


def _show(found: Narrowed) -> None:
    note(describe(found.size))
    if found.healed is not None:
        show_fits(found.healed)
        if found.uncut is not None:
            echo(f"the uncut model's loss on these windows: {found.uncut:.4f}")
    if found.lost:
        worst = sorted(found.lost, key=lambda n: -found.lost[n])[:4]
        named = ", ".join(f"{n} ({found.lost[n]:.2%})" for n in worst)
        echo(f"layers whose networks lose most without a refit: {named} of what they put out")
