"""apply and replay: surgery from a recipe file, or from the one in a header."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import click

from .. import __version__
from ..compensate.fit_again import check_arrays, fit_of, heal_again
from ..compensate.sidecar import Sidecar
from ..errors import GGSurgeryError, OutputError
from ..files.text import read_corpus
from ..ggufio.header import read_header
from ..plan.recipe import Recipe, read_document
from ..runtime import worker
from ..surgery.prepare import prepare_replay
from ..surgery.provenance import read_provenance
from ._blend import force_kinds_option, out_type_option
from ._files import FILE, split_option
from ._output import json_option, note, print_json, warn
from ._progress import progress_bar
from ._surgery import Options, check_early, operate, surgery_options, write

sidecar_option = click.option(
    "--sidecar",
    type=FILE,
    metavar="NPZ",
    help="The arrays that `heal --sidecar` or `distil --sidecar` wrote.",
)


@click.command()
@click.argument("recipe", metavar="RECIPE", type=FILE)
@out_type_option
@force_kinds_option
@sidecar_option
@surgery_options
@click.argument("sources", metavar="IN…", nargs=-1, required=True, type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def apply(
    options: Options,
    recipe: Path,
    out_type: str | None,
    force_kinds: bool | None,
    sidecar: Path | None,
    sources: tuple[Path, ...],
    out: Path,
) -> None:
    """Apply the operations of a recipe file, in their order.

    Layers are numbered as they stand after the step before. A recipe that
    blends models takes all of them, a base first. One of `heal` or `distil` needs its
    --sidecar: the arrays are too large for a recipe.

    \b
    Example:
      ggsurgery apply models/qwen3-tiny-v1.yaml in.gguf out.gguf
      # recipe.yaml
      #   operations:
      #     - delete: {layer: 10}
      #     - swap: {layers: "11,12"}
    """
    document = read_document(recipe)
    loaded = Recipe.from_json(document, recipe)
    left = [k for k in ("header", "template") if isinstance(document, dict) and document.get(k)]
    if left:
        warn(f"{recipe}: {' and '.join(left)}: for `ggsurgery run`; apply does the operations only")
    extra = options.recipe((), out_type=out_type, force_kinds=force_kinds)
    merged = replace(
        loaded,
        name=options.name or loaded.name,
        options=tuple((dict(loaded.options) | dict(extra.options)).items()),
    )
    given = None if fit_of(merged) is None else _given(merged, sources[0], sidecar, None, recipe)
    operate(merged, sources, out, options, given, spared=(recipe, sidecar))


@click.command()
@click.argument("made", metavar="OUT", type=FILE)
@click.argument("sources", metavar="IN…", nargs=-1, required=True, type=FILE)
@click.argument("new", metavar="NEW", type=FILE)
@sidecar_option
@click.option(
    "--text", type=FILE, help="Or the text that a cut was healed on: the fit is made again."
)
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--sync", is_flag=True, help="Wait until the data is on the disk.")
@split_option
@json_option
def replay(
    made: Path,
    sources: tuple[Path, ...],
    new: Path,
    sidecar: Path | None,
    text: Path | None,
    dry_run: bool,
    force: bool,
    sync: bool,
    split_max_size: int | None,
    as_json: bool,
) -> None:
    """Make a file once more from the recipe in its header, and compare the bytes.

    A file made from several inputs needs all of them, in the same order. A file made by
    `heal` needs the calibration text too (its checksum stands in the header), or the
    sidecar with the fitted arrays; one made by `distil` needs its sidecar. The imatrix of a
    prune and the map of a trimmed vocabulary are looked for in the current folder, beside OUT
    and beside IN.

    \b
    Example:
      ggsurgery replay out.gguf in.gguf new.gguf
      ggsurgery replay healed.gguf in.gguf new.gguf --text calibration.txt
    """
    known = read_provenance(read_header(made))
    if known.version != __version__:
        warn(f"{made} was made by version {known.version}, this is {__version__}")
    if new.exists() and new.samefile(made):
        raise OutputError("the new file would replace the one to compare with", file=new)
    options = Options(dry_run, as_json, force, sync, split_max_size)
    check_early(sources, new, options)
    given = None
    if fit_of(known.recipe) is not None and not dry_run:
        with prepare_replay(made, sources):
            pass  # the inputs are checked before the fit
        given = _given(known.recipe, sources[0], sidecar, text, made)
    with prepare_replay(made, sources, given=given) as prepared:
        written = write(prepared, new, options)
    if written is None:
        return
    new = written.path
    pairs = list(zip_longest(read_header(made).paths, read_header(new).paths))
    same = all(a and b and filecmp.cmp(a, b, shallow=False) for a, b in pairs)
    if as_json:
        print_json({"out": str(new), "identical": same, "recipe": known.recipe.to_json()})
    if not same:
        raise OutputError(
            "the replayed file differs",
            file=new,
            expected=f"the bytes of {made}",
            hint="`ggsurgery diff` shows where. Was one of them edited later?",
        )
    note(f"{new}: identical to {made}")


def _given(
    recipe: Recipe, source: Path, sidecar: Path | None, text: Path | None, named: Path
) -> Sidecar:
    """The arrays of a healed or distilled model, from their file or fitted once more."""
    if sidecar is not None:
        found = Sidecar.load(sidecar)
        check_arrays(recipe, found, str(sidecar))
        return found
    fit = fit_of(recipe) or {}
    if any(one.operation == "distil" for one in recipe.steps):
        raise GGSurgeryError(
            "training is not reproducible bit for bit, and what it changed is not in the recipe",
            file=named,
            expected="--sidecar with the arrays that `distil --sidecar` wrote",
        )
    if text is None:
        raise GGSurgeryError(
            "the corrections of a healed cut are not in the recipe",
            file=named,
            hint="`apply` and `replay` take what `heal --sidecar` wrote; `replay` also takes "
            f"--text, the calibration text (sha256 {str(fit.get('text'))[:16]}…), and fits again.",
        )
    words = read_corpus(text)
    with progress_bar("heal", "window") as progress:
        return worker.run(heal_again, recipe, source, words, progress=progress, file=source)
