"""repair: the metadata of files from which others removed layers."""

from __future__ import annotations

from pathlib import Path

import click

from ..files.atomic import check_output
from ..ggufio.changes import short
from ..plan.text import parse_layers
from ..surgery.repair import prepare
from ._files import split_option
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import bytes_bar
from ._surgery import in_out, list_option, warn_of_refusal


@click.command()
@list_option(
    "removed",
    "LIST",
    "The layers that were removed, numbered as in the whole model: 3, 3-5 or 0-9,11.",
)
@click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@split_option
@click.option("--allow-unknown-arch", is_flag=True, help="Also without a rule file.")
@json_option
@in_out
def repair(
    removed: str,
    dry_run: bool,
    force: bool,
    split_max_size: int | None,
    allow_unknown_arch: bool,
    as_json: bool,
    source: Path,
    out: Path,
) -> None:
    """Mend a file that another program pruned without its metadata.

    Arrays with one entry a layer, window patterns, counts of dense layers: everything
    becomes what it would be had ggsurgery removed the layers. The weights stay.

    \b
    Example:
      llama-quantize --prune-layers 10 gemma.gguf pruned.gguf COPY
      ggsurgery verify pruned.gguf
      ggsurgery repair --removed 10 pruned.gguf mended.gguf
    """
    if not dry_run:
        check_output(out, [source], force=force)
    with prepare(source, parse_layers(removed), allow_unknown=allow_unknown_arch) as found:
        for text in found.warnings:
            warn(text)
        if not dry_run:
            with bytes_bar(out.name, found.layout.n_bytes) as bar:
                out = found.write(
                    out, force=force, progress=bar.update, split_max_size=split_max_size
                )
        else:
            paths = found.source.header.paths
            warn_of_refusal(out, paths, found.layout.n_bytes, force=force)
        rows = [
            (key, "–" if old is None else short(old, 40), "–" if new is None else short(new, 40))
            for key, (old, new) in found.changes.items()
        ]
        if as_json:
            values = {
                key: {"before": old and old.value, "after": new and new.value}
                for key, (old, new) in found.changes.items()
            }
            print_json({"changes": values, "tensors": list(found.tensors), "written": not dry_run})
            return
    echo(table(rows, ("key", "in the file", "mended")))
    for name in found.tensors:
        echo(f"{name}: the slabs of the removed layers are left out")
    note(f"dry run: {out} was not written" if dry_run else f"wrote {out}")
