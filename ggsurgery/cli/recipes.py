"""apply and replay: surgery from a recipe file, or from the one in a header."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from pathlib import Path

import click

from .. import __version__
from ..errors import OutputError
from ..ggufio.atomic import check_output
from ..ggufio.header import read_header
from ..plan.recipe import load_recipe
from ..provenance import read_provenance
from ..surgery import prepare_replay
from ._blend import force_kinds_option, out_type_option
from ._files import FILE
from ._output import json_option, note, print_json, warn
from ._surgery import Options, operate, surgery_options, write_with_bar


@click.command()
@click.argument("recipe", metavar="RECIPE", type=FILE)
@out_type_option
@force_kinds_option
@surgery_options
@click.argument("sources", metavar="IN…", nargs=-1, required=True, type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def apply(
    options: Options,
    recipe: Path,
    out_type: str | None,
    force_kinds: bool | None,
    sources: tuple[Path, ...],
    out: Path,
) -> None:
    """Apply the operations of a recipe file, in their order.

    Layers are numbered as they stand after the step before. A recipe that
    blends models takes all of them, a base first.

    \b
    Example:
      ggsurgery apply models/qwen3-tiny-v1.yaml in.gguf out.gguf
      # recipe.yaml
      #   operations:
      #     - delete: {layer: 10}
      #     - swap: {layers: "11,12"}
    """
    loaded = load_recipe(recipe)
    extra = options.recipe((), out_type=out_type, force_kinds=force_kinds)
    merged = replace(
        loaded,
        name=options.name or loaded.name,
        options=tuple((dict(loaded.options) | dict(extra.options)).items()),
    )
    operate(merged, sources, out, options)


@click.command()
@click.argument("made", metavar="OUT", type=FILE)
@click.argument("sources", metavar="IN…", nargs=-1, required=True, type=FILE)
@click.argument("new", metavar="NEW", type=FILE)
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--sync", is_flag=True, help="Wait until the data is on the disk.")
@json_option
def replay(
    made: Path, sources: tuple[Path, ...], new: Path, force: bool, sync: bool, as_json: bool
) -> None:
    """Make a file once more from the recipe in its header, and compare the bytes.

    A file made from several inputs needs all of them, in the same order.

    \b
    Example:
      ggsurgery replay out.gguf in.gguf new.gguf
    """
    known = read_provenance(read_header(made))
    if known.version != __version__:
        warn(f"{made} was made by version {known.version}, this is {__version__}")
    if new.exists() and new.samefile(made):
        raise OutputError("the new file would replace the one to compare with", file=new)
    check_output(new, sources, force=force)  # before a checksum over all bytes
    with prepare_replay(made, sources) as operation:
        write_with_bar(operation, new, force=force, sync=sync)
    same = filecmp.cmp(made, new, shallow=False)
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
