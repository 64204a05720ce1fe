"""apply and replay: surgery from a recipe file, or from the one in a header."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import OutputError
from ..jobs.replay import ReplayRequest
from ..jobs.surgery import SurgeryRequest
from ._files import FILE
from ._output import json_option, note, print_json, warn
from ._progress import progress_bar
from ._requests import Maker, request_options
from ._surgery import Surgery, check_early, dry_run_option, perform_surgery, surgery_options, write


@click.command()
@click.argument("recipe", metavar="RECIPE", type=FILE)
@surgery_options(
    SurgeryRequest, also=("out_type", "force_kinds"), skip=("files", "out", "operations", "recipe")
)
@click.argument("sources", metavar="IN…", nargs=-1, required=True, type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def apply(
    surgery: Surgery, make: Maker, recipe: Path, sources: tuple[Path, ...], out: Path
) -> None:
    """Apply the operations of a recipe file, in their order.

    Layers are numbered as they are after the previous step. A recipe that blends models takes all
    of them, the base first. A recipe from `heal` or `distil` needs its --sidecar: the arrays are
    too large for a recipe.

    \b
    Example:
      ggsurgery apply models/qwen3-tiny-v1.yaml in.gguf out.gguf
      # recipe.yaml
      #   operations:
      #     - delete: {layer: 10}
      #     - swap: {layers: "11,12"}
    """
    request = make(SurgeryRequest, files=sources, out=out, recipe=recipe)
    warn(*request.ignored)
    perform_surgery(surgery, request)


@click.command()
@request_options(ReplayRequest, skip=("made", "files", "out"))
@click.argument("made", metavar="OUT", type=FILE)
@click.argument("sources", metavar="IN…", nargs=-1, required=True, type=FILE)
@click.argument("new", metavar="NEW", type=FILE)
@dry_run_option
@json_option
def replay(
    make: Maker, made: Path, sources: tuple[Path, ...], new: Path, dry_run: bool, as_json: bool
) -> None:
    """Make a file again from the recipe in its header, and compare the bytes.

    A file made from several inputs needs all of them, in the same order. A file made by `heal` also
    needs the calibration text (its checksum is in the header), or the sidecar with the fitted
    arrays; one made by `distil` needs its sidecar. The imatrix of a prune and the map of a trimmed
    vocabulary are looked for in the current folder, beside OUT and beside IN.

    \b
    Example:
      ggsurgery replay out.gguf in.gguf new.gguf
      ggsurgery replay healed.gguf in.gguf new.gguf --text calibration.txt
    """
    request = make(ReplayRequest, made=made, files=sources, out=new)
    surgery = Surgery(request, dry_run, as_json)
    warn(*request.check_made())
    check_early(sources, new, surgery, spared=request.spared)
    with progress_bar("heal", "window") as progress:
        given = None if dry_run else request.arrays(progress)
    with request.prepare(given) as prepared:
        written = write(prepared, new, surgery, spared=request.spared)
        if written is None:
            return
        found = request.compared(prepared, written)
    if as_json:
        recipe = found.recipe.to_json()
        print_json({"out": str(found.path), "identical": found.identical, "recipe": recipe})
    if not found.identical:
        raise OutputError(
            "the replayed file differs",
            file=found.path,
            expected=f"the bytes of {made}",
            hint="`ggsurgery diff` shows where. Was one of them edited later?",
        )
    note(f"{found.path}: identical to {made}")
