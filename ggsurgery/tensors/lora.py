"""The update that a LoRA adapter makes to a tensor, row by row: factor · B A.

Only the rows that are asked for are multiplied out, so memory grows with the adapter's
matrices and not with the tensor.
"""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..ggufio.lora import read_adapter
from ..ggufio.reader import Source
from ..ggufio.types import type_name
from . import kernels
from .finite import check_source
from .kernels import Values

#: Prefix of the keys of `Given` for such updates.
LORA = "lora:"

F32 = NDArray[np.float32]


def key_of(path: str, checksum: str, name: str, factor: float) -> str:
    """The key of an update.

    Args:
        checksum: of the adapter's file, so that a changed file has other keys.
        name: of the tensor, as the adapter calls it.
    """
    return LORA + json.dumps([path, checksum, name, factor])


def update_rows(key: str, width: int, rows: tuple[tuple[int, int], ...]) -> Values:
    """float32 values of some rows of an update, flat.

    Raises:
        FormatError: NaN or infinity in the adapter.
    """
    path, checksum, name, factor = json.loads(key.removeprefix(LORA))
    left, right = _matrices(path, checksum, name)
    height = left.shape[1]
    parts = []
    for start, stop in rows:
        for slab in range(start // height, -(-stop // height)):
            first, last = max(0, start - slab * height), min(height, stop - slab * height)
            parts.append((left[slab, first:last] @ right[slab]) * np.float32(factor))
    out = np.concatenate(parts, axis=0)
    assert out.shape[1] == width
    return np.ascontiguousarray(out, np.float32).reshape(-1)


@lru_cache(maxsize=8)
def _matrices(path: str, checksum: str, name: str) -> tuple[F32, F32]:
    """[slabs, rows, rank] and [slabs, rank, columns]."""
    adapter = read_adapter(path)
    pair = adapter.pairs[name]
    with Source(path) as source:
        arrays = []
        for tensor in (pair.a, pair.b):
            if not kernels.can_decode(tensor.type) or source.header.order != "<":
                raise FormatError(
                    f"values of type {type_name(tensor.type)} cannot be computed with",
                    file=path,
                    tensor=tensor.name,
                )
            raw = np.frombuffer(source.data(tensor), np.uint8).copy()
            values = kernels.decode(tensor.type, raw)
            check_source(values, source.header, tensor)
            columns, rows = (*tensor.shape, 1)[:2]  # of rank 1 the last axis may be left out
            arrays.append(values.reshape(-1, rows, columns))
        source.check_unchanged()
    a, b = arrays
    if pair.flipped:
        return a, b.transpose(0, 2, 1)
    return b, a
