"""repair: fix the metadata of files from which another program removed layers."""

from __future__ import annotations

from pathlib import Path

import click

from ..ggufio.changes import short
from ..jobs.repair import RepairRequest
from ..surgery.layout import Compute
from ..surgery.provenance import PREFIX
from ._output import echo, json_option, note, print_json, table
from ._requests import Maker, request_options
from ._surgery import Surgery, dry_run_option, in_out, list_option, warn_of_refusal, write


@click.command()
@list_option(
    "removed",
    "LIST",
    "The layers that were removed, numbered as in the whole model: 3, 3-5 or 0-9,11.",
)
@request_options(RepairRequest, skip=("file", "out", "removed"))
@dry_run_option
@json_option
@in_out
def repair(
    make: Maker, removed: str, dry_run: bool, as_json: bool, source: Path, out: Path
) -> None:
    """Fix the metadata of a file that another program pruned.

    Arrays with one entry per layer, window patterns, counts of dense layers: all are set as if
    ggsurgery had removed the layers. The weights are unchanged.

    \b
    Example:
      llama-quantize --prune-layers 10 gemma.gguf pruned.gguf COPY
      ggsurgery verify pruned.gguf
      ggsurgery repair --removed 10 pruned.gguf mended.gguf
    """
    request = make(RepairRequest, file=source, out=out, removed=removed)
    surgery = Surgery(request, dry_run, as_json)
    with request.prepare() as prepared:
        changed = [c for c in prepared.changes if not c.key.startswith(PREFIX)]
        tensors = [p.info.name for p in prepared.layout.pieces if isinstance(p.job, Compute)]
        written = write(
            prepared, out, surgery, dry_run=lambda: warn_of_refusal(prepared, out, surgery)
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
