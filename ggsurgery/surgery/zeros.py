"""The result of a pruning: the zeros in a file, and the thresholds.

They are counted in the file itself, after encoding, since some types have no exact zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ggufio.reader import Source
from ..host import n_threads
from ..plan.recipe import Recipe
from ..tensors import kernels
from ..tensors.expr import Apply, Combine, Read, walk
from ..tensors.kernels import F32, backend
from ..tensors.mapped_pages import drop
from ..tensors.parallel import reduce_blocks
from ..tensors.read_rows import RowReader, Rows
from ..tensors.two_pass import row_blocks
from .layout import Compute, FileLayout
from .write import Advance, Stages


@dataclass(frozen=True, slots=True)
class Zeros:
    """How many weights of a tensor are zero in a file."""

    name: str
    type: str
    n_zero: int
    n_weights: int

    @property
    def sparsity(self) -> float:
        return self.n_zero / self.n_weights

    def to_json(self) -> dict[str, Any]:
        return {
            "tensor": self.name,
            "type": self.type,
            "zeros": self.n_zero,
            "weights": self.n_weights,
            "sparsity": self.sparsity,
        }


def masked(layout: FileLayout) -> dict[str, float | None]:
    """The tensors in which weights become zero, each with its threshold if that is known.

    Thresholds of a global prune are known once the layout is settled.
    """
    found: dict[str, float | None] = {}
    for piece in layout.pieces:
        if not isinstance(piece.job, Compute):
            continue
        for node in walk(piece.job.expr):
            if isinstance(node, Apply | Combine) and node.method.startswith("mask"):
                found.setdefault(piece.info.name, dict(node.params).get("threshold"))
    return found


def zeros_in(layout: FileLayout, out: Path, stages: Stages) -> tuple[Zeros, ...]:
    """The zeros in the tensors of a written file that a prune was about."""
    names = list(masked(layout))
    if not names:
        return ()
    with Source(out) as written:
        n_bytes = sum(written.header.by_name[n].nbytes for n in names)
        with stages("counting zeros", n_bytes) as tick:
            return tuple(measure(written, names, progress=tick))


def measured_sparsity(recipe: Recipe, zeros: Sequence[Zeros]) -> list[str]:
    """Warns of a prune into a type that has few exact zeros."""
    prunes = (dict(s.arguments) for s in recipe.steps if s.operation == "prune")
    asked = next((float(p["sparsity"]) for p in prunes if p.get("sparsity") is not None), None)
    n_zero, n_weights = sum(z.n_zero for z in zeros), sum(z.n_weights for z in zeros)
    inexact = ", ".join(sorted({z.type for z in zeros} - {"f32", "f16", "bf16"}))
    if asked is None or not inexact or not n_weights or n_zero / n_weights >= asked - 0.01:
        return []
    return [
        f"asked for {asked:.4g}, but {inexact} has few exact zeros: measured "
        f"{n_zero / n_weights:.4g} after encoding; `out_type` f16 keeps them all"
    ]


def measure(
    source: Source,
    names: Sequence[str],
    *,
    threads: int | None = None,
    progress: Advance | None = None,
) -> list[Zeros]:
    """Count the zeros of a file's tensors, decoded from its types.

    Raises:
        FormatError: a tensor cannot be decoded.
    """
    reader = RowReader([source], progress=progress)
    kernel = backend()
    result = []
    for name in names:
        tensor = source.header.by_name[name]
        expr = Read(0, tensor)

        def step_(total: list[int], rows: Rows, expr: Read = expr, kind: int = tensor.type) -> None:
            if kind in kernels.FLOAT_SIZES:
                raw = reader.look(expr, rows)
                total[0] += kernel.count(kind, raw, 0, 1)
                drop(raw)
            else:
                values = reader.values(expr, rows)
                total[0] += kernel.count(F32, values.view("u1"), 0, 1)

        parts = reduce_blocks(row_blocks(expr), lambda: [0], step_, threads or n_threads())
        zeros = sum(p[0] for p in parts)
        result.append(Zeros(name, tensor.type_name, zeros, tensor.n_elements))
    return result
