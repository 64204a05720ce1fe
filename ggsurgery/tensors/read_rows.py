"""Evaluate some rows of an expression: from the encoded bytes in the files to float32.

    rows      half-open runs of row numbers, such as ((0, 512),) or ((3, 4), (9, 10))
    values    flat float32, run after run

Bytes are read with `pread` into buffers of our own and not through a memory map: memory
stays as small as a block, and a file that shrinks meanwhile is an error, not a crash.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..errors import FormatError, PlanError
from ..files.system_errors import reading
from ..ggufio.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from ..ggufio.reader import Source
from ..ggufio.types import Header, TensorInfo, type_name
from . import finite, kernels, mapped_pages, merge_stack, methods
from .expr import Apply, Combine, Effective, Expr, Given, MergeStack, Read, Slice, describe
from .kernels import Raw, Values
from .lora import LORA, update_rows
from .shape import n_rows, shape_of
from .wanda import IMATRIX, input_norms

Rows = tuple[tuple[int, int], ...]
GivenArrays = Mapping[str, Values] | Callable[[str], Values]


def check_readable(header: Header, tensor: TensorInfo) -> None:
    """Refuse a tensor whose values cannot be had here.

    Raises:
        FormatError: a type that cannot be decoded, or a file of the other byte order.
    """
    if not kernels.can_decode(tensor.type):
        raise FormatError(
            f"values of type {type_name(tensor.type)} cannot be computed with",
            file=header.path,
            tensor=tensor.name,
        )
    if (header.order == "<") != (sys.byteorder == "little"):
        raise FormatError(
            "values cannot be computed in a file of the other byte order",
            file=header.path,
            hint="Convert it first: gguf-convert-endian (package gguf)",
        )


class RowReader:
    """Evaluates rows of expressions over `sources`; may be shared by threads.

    Args:
        sources: the open files, in the order that `Read.source` counts.
        given: the arrays that `Given` names.
        progress: called with the bytes of each read, from whichever thread it was.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        given: GivenArrays | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self._sources = sources
        self._given = given or {}
        self._progress = progress

    def values(self, expr: Expr, rows: Rows) -> Values:
        """float32 values of the rows, flat.

        Raises:
            FormatError: the file ends early, holds NaN or infinity, or a type that cannot
                be decoded.
            PlanError: an unknown method, or inputs that do not fit.
        """
        match expr:
            case Read(source, tensor):
                values = kernels.decode(tensor.type, self.raw(expr, rows))
                finite.check_source(values, self._sources[source].header, tensor)
                return values
            case Effective(weight, scale):
                at = methods.Place(shape_of(weight), rows, describe(weight))
                factors = self.values(scale, ((0, 1),)).reshape(-1, 1)
                return methods.scaled(self.values(weight, rows), factors, at)
            case Given():
                return self._given_rows(expr, rows)
            case MergeStack():
                places = merge_stack.by_expert(expr, rows)
                return np.concatenate([merge_stack.values(expr, *at, self) for at in places])
            case Slice(inner, 0):
                picked = self.values(inner, rows).reshape(-1, shape_of(inner)[0])
                return np.ascontiguousarray(picked[:, _columns(expr)]).reshape(-1)
            case Slice(inner):
                return self.values(inner, inner_rows(expr, rows))
            case Apply(inner, method, options):
                at = methods.Place(shape_of(expr), rows, describe(inner))
                return methods.apply(method, self.values(inner, rows), dict(options), at)
            case Combine(inputs, method, options):
                first = inputs[0].weight if isinstance(inputs[0], Effective) else inputs[0]
                at = methods.Place(shape_of(expr), rows, describe(first))
                parts = [self._part(e, at) for e in inputs]
                return methods.combine(method, parts, dict(options), at)

    def _part(self, expr: Expr, at: methods.Place) -> Values:
        """An input of a `Combine`; given values of one row a slab are repeated over its rows."""
        if not isinstance(expr, Given) or expr.shape == at.shape:
            return self.values(expr, at.rows)
        table = self._array(expr).reshape(-1, expr.shape[0])
        slabs = prod(at.shape[2:])
        if expr.shape[0] != at.shape[0] or table.shape[0] not in (1, slabs):
            raise PlanError(
                "given values do not fit",
                tensor=at.name,
                expected=[at.shape[0], f"1 or {slabs}"],
                found=list(expr.shape),
            )
        return np.ascontiguousarray(methods.by_row(table, at), np.float32).reshape(-1)

    def raw(self, read: Read, rows: Rows) -> Raw:
        """The encoded bytes of whole rows of a tensor."""
        source, tensor = self._sources[read.source], read.tensor
        check_readable(source.header, tensor)
        size = tensor.nbytes // n_rows(tensor.shape)
        out = np.empty(sum(b - a for a, b in rows) * size, np.uint8)
        start = 0
        for first, last in rows:
            stop = start + (last - first) * size
            self._fill(source, read, out[start:stop], first * size)
            start = stop
        if self._progress is not None:
            self._progress(out.size)
        return out

    def look(self, read: Read, rows: Rows) -> Raw:
        """As `raw`, but mapped from the file and not copied where that is safe.

        The caller gives it back with `mapped_pages.drop`.
        """
        source, tensor = self._sources[read.source], read.tensor
        ((first, last),) = rows
        size = tensor.nbytes // n_rows(tensor.shape)
        view = np.frombuffer(source.data(tensor), np.uint8)[first * size : last * size]
        try:
            if not mapped_pages.populate(view):
                return self.raw(read, rows)
        except OSError:
            return self.raw(read, rows)  # which reports what is wrong
        check_readable(source.header, tensor)
        if self._progress is not None:
            self._progress(view.size)
        return view

    def sample(self, read: Read, starts: np.ndarray[Any, Any], nbytes: int) -> Raw:
        """`nbytes` encoded bytes from each of these places of a tensor, as rows."""
        source = self._sources[read.source]
        out = np.empty((starts.size, nbytes), np.uint8)
        for row, start in zip(out, starts, strict=True):
            self._fill(source, read, row, int(start))
        return out

    def _fill(self, source: Source, read: Read, out: Raw, offset: int) -> None:
        descriptor = source.descriptor(read.tensor.shard)
        at, view = source.position(read.tensor) + offset, memoryview(out.data)
        path = source.header.paths[read.tensor.shard]
        while view.nbytes:
            with reading(path, read.tensor.name):
                got = os.preadv(descriptor, [view], at)
            if got == 0:
                raise FormatError(
                    "the file ended while it was read", tensor=read.tensor.name, file=path
                )
            at, view = at + got, view[got:]

    def _given_rows(self, expr: Given, rows: Rows) -> Values:
        if expr.key.startswith(LORA):
            return update_rows(expr.key, expr.shape[0], rows)
        table = self._array(expr).reshape(-1, expr.shape[0])
        return np.concatenate([table[a:b].reshape(-1) for a, b in rows])

    def _array(self, expr: Given) -> Values:
        given = self._given
        try:
            if expr.key.startswith(IMATRIX):
                return input_norms(expr.key.removeprefix(IMATRIX), *expr.shape)
            found = given(expr.key) if callable(given) else given[expr.key]
        except KeyError:
            raise PlanError("values are missing that a method computed", tensor=expr.key) from None
        if found.size != prod(expr.shape):
            raise PlanError(
                "given values of another size",
                tensor=expr.key,
                expected=prod(expr.shape),
                found=found.size,
            )
        return np.ascontiguousarray(found, np.float32)


def inner_rows(expr: Slice, rows: Rows) -> Rows:
    """The rows of the input that a slice along a higher axis takes its rows from."""
    outer, inner = shape_of(expr)[1:], shape_of(expr.input)[1:]
    numbers = np.concatenate([np.arange(a, b) for a, b in rows])
    places = list(np.unravel_index(numbers, outer, order="F"))
    places[expr.axis - 1] = _columns(expr)[places[expr.axis - 1]]
    found = np.ravel_multi_index(places, inner, order="F")
    breaks = np.flatnonzero(np.diff(found) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(found, breaks))


def sliced_bytes(reader: RowReader, expr: Slice, rows: Rows) -> Raw | None:
    """The rows of a slice as the bytes in the file, where no block is cut in two."""
    if not isinstance(expr.input, Read):
        return None
    read = expr.input
    if expr.axis > 0:
        return reader.raw(read, inner_rows(expr, rows))
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(read.tensor.type)]
    if any(a % block or b % block for a, b in expr.ranges):
        return None
    blocks = reader.raw(read, rows).reshape(-1, read.tensor.shape[0] // block, size)
    cut = np.concatenate([blocks[:, a // block : b // block] for a, b in expr.ranges], axis=1)
    return np.ascontiguousarray(cut).reshape(-1)


def _columns(expr: Slice) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.concatenate([np.arange(a, b) for a, b in expr.ranges])
