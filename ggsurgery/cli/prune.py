"""prune: weights set to zero, and what that came to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ..ggufio.reader import Source
from ..plan.blend_ops import SCOPES, SCORES
from ..prune import Zeros, chosen, measure, prune_step
from ..surgery import Operation, prepare
from ._blend import computed, computing_options
from ._output import note, print_json, table, warn
from ._progress import bytes_bar
from ._surgery import Options, in_out, show, summary, surgery_options, write_with_bar


@click.command()
@click.option(
    "--sparsity", type=click.FloatRange(0, 1), metavar="P", help="Share to zero: 0.5 is half."
)
@click.option("--pattern", metavar="N:M", help="Instead: of every M neighbours in a row N stay.")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="global",
    show_default=True,
    help="One threshold over all weights, one a tensor, or so many of each row.",
)
@click.option("--largest", is_flag=True, help="Zero the largest weights instead of the smallest.")
@click.option(
    "--score",
    type=click.Choice(SCORES),
    default="magnitude",
    show_default=True,
    help="wanda: the magnitude times the norm of the input it multiplies.",
)
@click.option("--imatrix", type=click.Path(path_type=Path), help="Of wanda: the input norms.")
@click.option("--only", metavar="REGEX", help="Tensors to prune; default: the layers' matrices.")
@click.option("--list", "each", is_flag=True, help="Show every tensor, not only every kind.")
@computing_options
@surgery_options
@in_out
def prune(
    options: Options,
    sparsity: float | None,
    pattern: str | None,
    scope: str,
    largest: bool,
    score: str,
    imatrix: Path | None,
    only: str | None,
    each: bool,
    out_type: str | None,
    force_kinds: bool,
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
    with Source(source) as opened:
        names = [t.name for t in chosen(opened.header, only)]
        nbytes = sum(t.nbytes for t in opened.header.tensors if t.name in set(names))
        with bytes_bar("threshold", nbytes) as bar:
            one = prune_step(
                opened, sparsity, scope=scope, pattern=pattern, largest=largest, only=only,
                score=score, imatrix=None if imatrix is None else str(imatrix),
                progress=bar.update,
            )  # fmt: skip
    with prepare(options.recipe((one,), **computed(out_type, force_kinds)), (source,)) as operation:
        for text in operation.layout.warnings:
            warn(text)
        if options.dry_run:
            show(operation, options.as_json)
            return
        write_with_bar(operation, out, force=options.force, sync=options.sync)
        zeros = _measured(out, names)
        asked = sparsity if pattern is None else None
        _report(operation, out, zeros, asked, options.as_json, each)


def _measured(out: Path, names: list[str]) -> list[Zeros]:
    with Source(out) as written:
        nbytes = sum(written.header.by_name[n].nbytes for n in names)
        with bytes_bar("counting zeros", nbytes) as bar:
            return measure(written, names, progress=bar.update)


def _report(
    operation: Operation,
    out: Path,
    zeros: list[Zeros],
    asked: float | None,
    as_json: bool,
    each: bool,
) -> None:
    total = _joined("all", zeros)
    if asked is not None and total.sparsity < asked - 0.01:
        warn(
            f"asked for {asked:.4g}, but {total.type} has few exact zeros: measured "
            f"{total.sparsity:.4g} after encoding; --out-type f16 keeps them all"
        )
    if as_json:
        facts = summary(operation) | {"out": str(out), "sparsity": total.sparsity}
        print_json(facts | {"tensors": [z.to_json() for z in zeros]})
        return
    click.echo(_table(zeros if each else _by_kind(zeros), total, zeros, each))
    note(f"{out}: the file is as large as before; zeros do not shrink a GGUF")


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
