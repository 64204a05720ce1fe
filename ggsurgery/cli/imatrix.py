"""imatrix: collect an importance matrix, let it follow the layers, look into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..files.atomic import check_output
from ..ggufio.header import read_header
from ..ggufio.imatrix import read_imatrix, write_imatrix
from ..ggufio.reader import Source
from ..jobs.imatrix import ImatrixRequest
from ..measure.results.envelope import envelope
from ..plan.recipe import load_recipe
from ..plan.types import Plan
from ..quantize.imatrix_stats import (
    LayerStatistics,
    TensorStatistics,
    layer_statistics,
    tensor_statistics,
)
from ..quantize.remap import remap as follow
from ..surgery.imatrix_lineage import apply_recipe, with_origin
from ..surgery.lineage import plan_of
from ._files import FILE
from ._groups import DefaultGroup
from ._output import echo, json_option, note, print_json, table
from ._requests import perform, request_options


@click.group(cls=DefaultGroup, default="collect")
def imatrix() -> None:
    """Importance matrices: which input columns of each weight matter, for better low-bit files.

    `imatrix FILE OUT --text F` collects one, in llama.cpp's GGUF form.

    \b
    Example:
      ggsurgery imatrix model-F16.gguf model.imatrix.gguf --text calibration.txt --windows 100
      ggsurgery quantize model-F16.gguf out.gguf --type IQ2_M --imatrix model.imatrix.gguf
      ggsurgery imatrix remap model.imatrix.gguf cut.imatrix.gguf --uncut model.gguf --cut cut.gguf
      ggsurgery imatrix show model.imatrix.gguf --layers
    """


@imatrix.command()
@request_options(ImatrixRequest, arguments=("file", "out"))
def collect(request: ImatrixRequest) -> None:
    """Collect an importance matrix of FILE on a text.

    \b
    Example:
      ggsurgery imatrix model-F16.gguf model.imatrix.gguf --text calibration.txt
    """
    found = perform(request, "imatrix", "window").matrix
    windows = f"{found.n_chunks} windows of {request.ctx} tokens"
    note(f"{request.out}: {len(found.entries)} tensors over {windows}")


@imatrix.command()
@click.argument("file", metavar="IMATRIX...", nargs=-1, required=True, type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
@click.option("--cut", type=FILE, help="The file after surgery; its header holds the recipe.")
@click.option("--uncut", type=FILE, help="The file before surgery (with --cut).")
@click.option("--recipe", type=FILE, help="A recipe instead of --cut and --uncut.")
@click.option("--force", is_flag=True, help="Replace an existing OUT.")
def remap(
    file: tuple[Path, ...],
    out: Path,
    cut: Path | None,
    uncut: Path | None,
    recipe: Path | None,
    force: bool,
) -> None:
    """Let the entries follow the layers: gathered, duplicated, merged.

    One IMATRIX for each source of the operation, in its order.

    \b
    Example:
      ggsurgery imatrix remap in.imatrix.gguf cut.imatrix.gguf --uncut in.gguf --cut cut.gguf
    """
    if (cut is None) != (uncut is None) or (cut is None) == (recipe is None):
        raise click.UsageError("Give --cut with --uncut, or --recipe alone.")
    inputs = [*file, *(f for f in (cut, uncut, recipe) if f is not None)]
    check_output(out, inputs, force=force)
    matrices = [read_imatrix(f) for f in file]
    if recipe is not None:
        n_layers = max(matrices[0].layers, default=-1) + 1
        plan = apply_recipe(load_recipe(recipe), Plan.identity(n_layers))
    else:
        assert cut is not None and uncut is not None
        plan = plan_of(cut, read_header(uncut))
    found = follow(matrices, plan)
    if cut is not None:
        with Source(cut) as source:
            found = with_origin(found, source.header, source.checksum())
    write_imatrix(found, out, inputs=inputs, force=force)
    note(
        f"{out}: {len(found.entries)} entries for {plan.n_layers} layers. Behind a cut the "
        "activations differ; a matrix collected on the new file is better."
    )


@imatrix.command()
@click.argument("file", metavar="IMATRIX", type=FILE)
@click.option("--layers", is_flag=True, help="Rank layers instead of tensors.")
@click.option(
    "--top",
    default=20,
    show_default=True,
    type=click.IntRange(0),
    help="How many rows; 0 shows all.",
)
@json_option
def show(file: Path, layers: bool, top: int, as_json: bool) -> None:
    """Rank tensors (or layers) by the activation they receive.

    Σ(Act²) is the sum of mean squared activations over the input columns; ZD the share of
    columns far above the mean; CosSim the likeness to the same tensor one layer before.

    \b
    Example:
      ggsurgery imatrix show model.imatrix.gguf --layers
    """
    matrix = read_imatrix(file)
    tensors = tensor_statistics(matrix)
    ranked = sorted(layer_statistics(tensors), key=lambda s: -s.total)
    if as_json:
        facts: dict[str, Any] = {"file": str(file), "datasets": list(matrix.datasets)}
        facts |= {"chunks": matrix.n_chunks, "chunk_size": matrix.chunk_size}
        facts["tensors"] = [t.to_json() for t in tensors]
        facts["layers"] = [r.to_json() for r in ranked]
        print_json(envelope("imatrix show", None, {}) | facts)
        return
    note(
        f"{len(matrix.entries)} tensors, {matrix.n_chunks} chunks of {matrix.chunk_size} tokens "
        f"({', '.join(matrix.datasets) or 'text not named'})"
    )
    if layers:
        rows = map(_layer_row, ranked[: top or None])
        echo(table(rows, ("layer", "Σ(Act²)", "ZD", "CosSim")))
        return
    header = ("layer", "tensor", "Σ(Act²)", "max", "active", "entropy", "ZD", "CosSim")
    echo(table(map(_tensor_row, tensors[: top or None]), header))


def _layer_row(s: LayerStatistics) -> tuple[object, ...]:
    return (s.layer, f"{s.total:.2f}", f"{s.zd:.4%}", f"{s.cossim:.4f}")


def _tensor_row(t: TensorStatistics) -> tuple[object, ...]:
    return (
        "–" if t.layer is None else t.layer,
        t.kind,
        f"{t.total:.2f}",
        f"{t.maximum:.4f}",
        f"{t.active:.2%}",
        f"{t.entropy_share:.2%}",
        f"{t.zd:.2%}",
        "–" if t.cossim is None else f"{t.cossim:.4f}",
    )
