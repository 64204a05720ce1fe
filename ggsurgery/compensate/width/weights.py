"""The weights of a layer's feed-forward network, read block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...arch.channels import DOWN
from ...ggufio.reader import Source
from ...tensors.expr import Expr, Read
from ...tensors.read_rows import RowReader
from ...tensors.scales import effective
from ...tensors.shape import shape_of
from ...tensors.two_pass import row_blocks

F64 = NDArray[np.float64]


def matrix(source: Source, layer: int, suffix: str) -> Expr | None:
    """A tensor of a layer as the model uses it; None where the layer has none."""
    tensors = source.header.layer_tensors(layer)

    def get(name: str) -> Expr | None:
        tensor = tensors.get(name)
        return None if tensor is None else Read(0, tensor)

    return effective(get, suffix)


def down(source: Source, layer: int) -> F64:
    """`ffn_down` of a layer, [width, channels]."""
    expr = matrix(source, layer, DOWN)
    assert expr is not None  # `arch.channels` has seen it
    width, height = shape_of(expr)[:2]
    values = RowReader([source]).values(expr, ((0, height),))
    return values.reshape(height, width).astype(np.float64)


def magnitudes(source: Source, layer: int) -> F64:
    """For each channel: the norms of its rows of gate and up and its column of down, multiplied."""
    found = np.square(down(source, layer)).sum(axis=0)
    reader = RowReader([source])
    for suffix in ("ffn_up.weight", "ffn_gate.weight"):
        expr = matrix(source, layer, suffix)
        if expr is not None:
            blocks = (reader.values(expr, rows) for rows in row_blocks(expr))
            length = shape_of(expr)[0]
            sums = [np.square(b.reshape(-1, length)).sum(axis=1, dtype=np.float64) for b in blocks]
            rows = np.concatenate(sums)
            # gate and up may be one tensor, the one behind the other
            found = found * rows.reshape(-1, len(found)).prod(axis=0)
    norms: F64 = np.sqrt(found)
    return norms
