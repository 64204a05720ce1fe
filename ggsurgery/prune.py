"""Unstructured pruning: find the threshold, and measure what became zero.

The work is that of two streaming passes: one finds the exact threshold over all chosen
weights (`find_cut`), one writes the file (`surgery.prepare` with the step). What the file
then holds is measured on the file itself (`measure`), since some types have no exact zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from . import kernels
from .blend.mapping import drop
from .blend.model import order, prunable, score_of
from .blend.parallel import reduce_blocks
from .blend.resolve import Resolver, row_blocks
from .blend.rows import RowReader, Rows
from .compute import default_threads
from .errors import PlanError
from .expr import Read
from .ggufio.reader import Source
from .ggufio.types import Header, TensorInfo
from .kernels import F32, backend
from .plan.recipe import Step, step

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where one global threshold lies.

    `cut_tensor` and `cut`: weights equal to the threshold fall up to this element of this
    tensor, in the order of the file; None if all of them do.
    """

    threshold: float
    cut_tensor: str | None
    cut: int | None
    n_zeroed: int
    n_weights: int


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
            "tensor": self.name, "type": self.type, "zeros": self.n_zero,
            "weights": self.n_weights, "sparsity": self.sparsity,
        }  # fmt: skip


def chosen(header: Header, only: str | None = None) -> list[TensorInfo]:
    """The tensors that `prune` works on, in the order of the output.

    Raises:
        PlanError: `only` matches none, or is no regular expression.
    """
    found = [t for t in header.tensors if prunable(t.name, t.shape, only)]
    if not found:
        raise PlanError(
            "no tensor to prune", found=f"--only {only}" if only else None,
            hint="`ggsurgery inspect --tensors` lists the names.",
        )  # fmt: skip
    return sorted(found, key=lambda t: order(t.name))


def find_cut(
    source: Source,
    sparsity: float,
    *,
    largest: bool = False,
    only: str | None = None,
    score: str = "magnitude",
    imatrix: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Cut:
    """The one threshold by which exactly round(sparsity · weights) weights become zero.

    It is exact at any size and needs constant memory: a histogram on the bits of |w|.

    Args:
        progress: called with the bytes read since the last call.

    Raises:
        PlanError: no tensor is chosen, or the sparsity is out of range.
        FormatError: a tensor cannot be decoded.
    """
    if not 0 <= sparsity <= 1:
        raise PlanError("sparsity out of range", expected="0 to 1", found=sparsity)
    tensors = chosen(source.header, only)
    options = {"score": score, "imatrix": imatrix}
    reads = [Read(0, t) for t in tensors]
    scores = [score_of(r, options) or r for r in reads]
    total = sum(prod(t.shape) for t in tensors)
    count = round(sparsity * total)
    resolver = Resolver(RowReader([source], progress=progress), threads or default_threads())
    threshold, cuts = resolver.cuts(scores, count, largest)
    for tensor, cut in zip(tensors, cuts, strict=True):
        if cut is not None:
            return Cut(threshold, tensor.name, cut, count, total)
    return Cut(threshold, None, None, count, total)


def prune_step(
    source: Source,
    sparsity: float | None = None,
    *,
    scope: str = "global",
    pattern: str | None = None,
    largest: bool = False,
    only: str | None = None,
    score: str = "magnitude",
    imatrix: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Step:
    """The recipe step that prunes this file, with the threshold found where one is needed.

    Raises:
        PlanError: parameters that do not go together.
        FormatError: a tensor cannot be decoded.
    """
    chosen(source.header, only)
    found = None
    if scope == "global" and pattern is None and sparsity is not None:
        found = find_cut(
            source, sparsity, largest=largest, only=only, score=score, imatrix=imatrix,
            threads=threads, progress=progress,
        )  # fmt: skip
    return step(
        "prune", sparsity=sparsity, pattern=pattern, only=only, imatrix=imatrix,
        scope=None if scope == "global" else scope,
        largest=largest or None, score=None if score == "magnitude" else score,
        threshold=found.threshold if found else None,
        cut_tensor=found.cut_tensor if found else None, cut=found.cut if found else None,
    )  # fmt: skip


def measure(
    source: Source,
    names: Sequence[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Zeros]:
    """Count the zeros of tensors as they stand in a file, decoded from its types.

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

        parts = reduce_blocks(row_blocks(expr), lambda: [0], step_, threads or default_threads())
        zeros = sum(p[0] for p in parts)
        result.append(Zeros(name, tensor.type_name, zeros, tensor.n_elements))
    return result
