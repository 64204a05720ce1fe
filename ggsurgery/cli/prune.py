"""prune: set weights to zero, and report the sparsity."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ..plan.blend_ops import SCOPES, SCORES
from ..plan.recipe import step
from ..present.numbers import human_bytes
from ..surgery.prepared import PreparedSurgery, Written
from ..surgery.zeros import Zeros, masked
from ._files import FILE
from ._output import echo, note, print_json, table
from ._surgery import Surgery, in_out, surgery_options, write


@click.command()
@click.option(
    "--sparsity", type=click.FloatRange(0, 1), metavar="P", help="Share to zero: 0.5 is half."
)
@click.option("--pattern", metavar="N:M", help="Keep N of every M neighbours in a row.")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="global",
    show_default=True,
    help="One threshold for all weights, one per tensor, or the same share of each row.",
)
@click.option("--largest", is_flag=True, help="Zero the largest weights instead of the smallest.")
@click.option(
    "--score",
    type=click.Choice(SCORES),
    default="magnitude",
    show_default=True,
    help="wanda: the magnitude times the norm of the input it multiplies.",
)
@click.option("--imatrix", type=FILE, help="The input norms for wanda.")
@click.option(
    "--imatrix-of",
    type=click.Choice(["this"]),
    help="The imatrix belongs to IN itself, even if neither its lineage nor its layers show it.",
)
@click.option("--only", metavar="REGEX", help="Tensors to prune; default: the layers' matrices.")
@click.option("--list", "each", is_flag=True, help="Show every tensor, not one row per kind.")
@surgery_options(also=("out_type",))
@in_out
def prune(
    surgery: Surgery,
    sparsity: float | None,
    pattern: str | None,
    scope: str,
    largest: bool,
    score: str,
    imatrix: Path | None,
    imatrix_of: str | None,
    only: str | None,
    each: bool,
    source: Path,
    out: Path,
) -> None:
    """Set weights to zero by their magnitude.

    The zeros do not make a GGUF smaller or faster: they show how much of a
    model its weights carry. The sparsity printed is measured in the output,
    after encoding; some types (q4_k …) have no exact zero everywhere.

    \b
    Example:
      ggsurgery prune --sparsity 0.3 in.gguf out.gguf
      ggsurgery prune --pattern 2:4 in.gguf out.gguf
      ggsurgery prune --sparsity 0.5 --scope row --score wanda --imatrix i.gguf in.gguf out.gguf
    """
    one = step(
        "prune",
        sparsity=sparsity,
        pattern=pattern,
        only=only,
        largest=largest or None,
        scope=None if scope == "global" else scope,
        score=None if score == "magnitude" else score,
        imatrix=None if imatrix is None else str(imatrix),
        imatrix_of=imatrix_of,
    )
    with surgery.request([one], [source], out).prepare() as prepared:
        spared = () if imatrix is None else (imatrix,)
        written = write(prepared, out, surgery, spared=spared)
        if written is not None:
            _report(prepared, written, surgery.as_json, each)


def _report(prepared: PreparedSurgery, written: Written, as_json: bool, each: bool) -> None:
    zeros, out, facts = list(written.zeros), written.path, prepared.summary
    total, threshold = _joined("all", zeros), next(iter(masked(written.layout).values()))
    if as_json:
        measured = {"out": str(out), "sparsity": total.sparsity, "threshold": threshold}
        print_json(facts.to_json() | measured | {"tensors": [z.to_json() for z in zeros]})
        return
    echo(_table(zeros if each else _by_kind(zeros), total, zeros, each))
    before, after = (human_bytes(n) for n in facts.bytes)
    data = sum(t.nbytes for t in prepared.shell.tensors)  # headers may differ a little
    same = data == sum(t.nbytes for t in written.layout.tensor_infos())
    size = f"{after} as before" if same else f"{before} → {after}"
    found = "" if threshold is None else f"threshold {threshold:.6g}; "
    note(f"{out}: {found}{size}; zeros do not shrink a GGUF")


def _table(rows: list[Zeros], total: Zeros, zeros: list[Zeros], each: bool) -> str:
    header = ("tensor", "type", "weights", "zeros", "sparsity")
    cells: list[tuple[Any, ...]] = [
        (z.name, z.type, f"{z.n_weights:,}", f"{z.n_zero:,}", z.sparsity) for z in [*rows, total]
    ]
    if each:
        return table(cells, header)
    spread = [_spread(zeros, z.name) for z in rows] + [_spread(zeros, None)]
    return table(
        [(*c, *s) for c, s in zip(cells, spread, strict=True)], (*header, "lowest", "highest")
    )


def _spread(zeros: list[Zeros], kind: str | None) -> tuple[float, float]:
    found = [z.sparsity for z in zeros if kind is None or _kind(z.name) == kind]
    return min(found), max(found)


def _by_kind(zeros: list[Zeros]) -> list[Zeros]:
    kinds = dict.fromkeys(_kind(z.name) for z in zeros)
    return [_joined(k, [z for z in zeros if _kind(z.name) == k]) for k in kinds]


def _joined(name: str, zeros: Iterable[Zeros]) -> Zeros:
    zeros = list(zeros)
    types = sorted({z.type for z in zeros})
    return Zeros(
        name, ", ".join(types), sum(z.n_zero for z in zeros), sum(z.n_weights for z in zeros)
    )


def _kind(name: str) -> str:
    return re.sub(r"^blk\.\d+\.", "blk.*.", name)
