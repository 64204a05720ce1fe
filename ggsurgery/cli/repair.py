"""repair: the metadata of files from which others removed layers."""

from __future__ import annotations

from pathlib import Path

import click

from ..ggufio.changes import short
from ..plan.text import parse_layers
from ..surgery.layout import Compute
from ..surgery.provenance import PREFIX
from ..surgery.repair import prepare_repair
from ._files import split_option
from ._output import echo, json_option, note, print_json, table
from ._surgery import Options, in_out, list_option, warn_of_refusal, write


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
    options = Options(dry_run, as_json, force, sync=False, split_max_size=split_max_size)
    wanted, allow = parse_layers(removed), allow_unknown_arch
    with prepare_repair(source, wanted, allow_unknown=allow) as prepared:
        changed = [c for c in prepared.changes if not c.key.startswith(PREFIX)]
        tensors = [p.info.name for p in prepared.layout.pieces if isinstance(p.job, Compute)]
        written = write(
            prepared, out, options, dry_run=lambda: warn_of_refusal(prepared, out, options)
        )
        if as_json:
            values = {c.key: {k: v for k, v in c.to_json().items() if k != "key"} for c in changed}
            print_json({"changes": values, "tensors": tensors, "written": written is not None})
            return
    rows = [
        (c.key, *("–" if v is None else short(v, 40) for v in (c.before, c.after))) for c in changed
    ]
    echo(table(rows, ("key", "in the file", "mended")))
    for name in tensors:
        echo(f"{name}: the slabs of the removed layers are left out")
    note(f"dry run: {out} was not written" if written is None else f"wrote {written.path}")
