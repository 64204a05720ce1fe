"""Evaluate an expression over tensors, row block by row block, in memory that does not
grow with the tensors.

    one block:  read rows of the inputs → decode → arithmetic in float32 → encode

Blends of F32, F16 or BF16 tensors into the same type take one fused kernel call a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import GGSurgeryError
from ..ggufio.reader import Source
from ..ggufio.types import type_name
from ..host import n_threads
from . import finite, kernels, merge_stack
from .expr import Apply, Combine, Expr, MergeStack, Read, Slice, reads
from .kernels import NAN_KEY, Raw, backend
from .kth_smallest import own_key
from .parallel import in_order
from .read_rows import GivenArrays, RowReader, Rows, sliced_bytes
from .shape import shape_of
from .two_pass import Resolver, common_float, row_blocks

__all__ = ["evaluate", "largest"]


def evaluate(
    expr: Expr,
    out_type: int,
    sources: Sequence[Source],
    *,
    threads: int | None = None,
    given: GivenArrays | None = None,
) -> Iterator[memoryview]:
    """The result, encoded as `out_type`, in pieces of whole rows.

    Args:
        expr: a tree as `blend.lower` makes it.
        out_type: ggml's number of a type for which `kernels.can_encode` holds; a tensor that is
        copied, or cut between blocks, may keep any type.
        sources: the open files, in the order that `Read.source` counts.
        threads: number of threads; None for `host.n_threads`.
        given: the arrays that `Given` names, as a mapping or a function of the key.

    Raises:
        PlanError: shapes that do not fit, an unknown method.
        FormatError: a type that cannot be decoded, a file that ends early, NaN or infinity in
            the weights that are computed with.
        PlanError: values that are too large for `out_type`.
        EngineError: `out_type` cannot be encoded.
    """
    reader = RowReader(sources, given)
    count = n_threads() if threads is None else max(1, threads)
    try:
        tree = Resolver(reader, count).resolve(expr)
        block = _BlockEncoder(reader, tree, out_type)
        for raw in in_order(block.encode, row_blocks(tree), count):
            if raw is None:
                raise finite.too_large(out_type, largest(reader, tree))
            yield memoryview(raw.data)
    except GGSurgeryError as error:
        raise _named(error, expr, sources) from error


def largest(reader: RowReader, tree: Expr) -> float:
    """The largest magnitude of an expression; NaN where a value is not a number.

    Raises:
        FormatError: NaN or infinity in the tensors that it reads.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        blocks = [np.abs(reader.values(tree, rows)).max() for rows in row_blocks(tree)]
    return float(np.max(blocks))


class _BlockEncoder:
    """Encodes blocks of rows of one expression, by the quickest way that fits."""

    def __init__(self, reader: RowReader, expr: Expr, out_type: int) -> None:
        self._reader, self._expr, self._type = reader, expr, out_type
        self._width = shape_of(expr)[0]

    def encode(self, rows: Rows) -> Raw | None:
        """The rows as bytes; None where a value is not a number or too large for the type."""
        match self._expr:
            case Read(_, tensor) if tensor.type == self._type:
                return self._reader.raw(self._expr, rows)
            case Slice() if _slice_type(self._expr) == self._type:
                cut = sliced_bytes(self._reader, self._expr, rows)
                if cut is not None:
                    return cut
            case MergeStack(Read() as read) if read.tensor.type == self._type:
                return self._merged(self._expr, read, rows)
            case Combine(inputs, "linear", options) if common_float(*inputs) == self._type:
                weights = dict(options)["weights"]
                raws = [self._reader.raw(e, rows) for e in inputs if isinstance(e, Read)]
                return self._checked(backend().linear(self._type, raws, weights, out=raws[0]))
            case Apply(Read() as read, "scale", options) if read.tensor.type == self._type:
                if self._type in kernels.FLOAT_SIZES:
                    raw = self._reader.raw(read, rows)
                    factor = float(dict(options)["factor"])
                    return self._checked(backend().linear(self._type, [raw], [factor], out=raw))
            case Apply(Read() as read, "mask", options) if read.tensor.type == self._type:
                if self._type in kernels.FLOAT_SIZES:
                    return self._mask(read, dict(options), rows)
        values = self._reader.values(self._expr, rows)
        return finite.encode(self._type, values, self._width)

    def _checked(self, raw: Raw) -> Raw | None:
        return raw if finite.is_finite(self._type, raw) else None

    def _merged(self, expr: MergeStack, read: Read, rows: Rows) -> Raw | None:
        """Experts that stay alone keep their bytes."""
        parts: list[Raw] = []
        for group, first, last in merge_stack.by_expert(expr, rows):
            ((expert, _), *others) = expr.groups[group]
            if others:
                values = merge_stack.values(expr, group, first, last, self._reader)
                part = finite.encode(self._type, values, self._width)
                if part is None:
                    return None
            else:
                own = merge_stack.source_rows(expr, expert, first, last)
                part = self._reader.raw(read, own)
            parts.append(part)
        return np.concatenate(parts)

    def _mask(self, read: Read, options: dict[str, object], rows: Rows) -> Raw:
        """A mask by magnitude without decoding: numbers are chosen by their bits."""
        raw = self._reader.raw(read, rows)
        if not finite.is_finite(self._type, raw):
            self._reader.values(read, rows)  # raises, naming the tensor
        width = kernels.FLOAT_SIZES[self._type]
        key = int(np.float32(str(options["threshold"])).view(np.uint32))
        at, beyond = own_key(self._type, key), own_key(self._type, key + 1)
        if options.get("largest"):
            inclusive, strict = (at, NAN_KEY[self._type]), (beyond, NAN_KEY[self._type])
        else:
            inclusive, strict = (0, beyond), (0, at)
        ((first, last),) = rows
        total, cut = (last - first) * self._width, options.get("cut")
        ties = total if cut is None else int(str(cut)) - first * self._width
        middle = min(max(0, ties), total) * width
        for part, (lo, hi) in ((raw[:middle], inclusive), (raw[middle:], strict)):
            if part.size and lo < hi:
                backend().mask(self._type, part, lo, hi, out=part)
        return raw


def _slice_type(expr: Expr) -> int | None:
    inner = expr.input if isinstance(expr, Slice) else None
    return inner.tensor.type if isinstance(inner, Read) else None


def _named(error: GGSurgeryError, expr: Expr, sources: Sequence[Source]) -> GGSurgeryError:
    """The error with the tensor's name and file, where it has none yet."""
    if error.tensor is not None or not (found := reads(expr)):
        return error
    tensor, header = found[0].tensor, sources[found[0].source].header
    place = f"{tensor.name} ({type_name(tensor.type)})"
    return error.at(file=header.paths[tensor.shard], tensor=place)
