"""The data of a node of llama.cpp's graph as arrays."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import binding
from .observe import read_bytes


def floats(node: binding.Tensor) -> NDArray[np.float32]:
    """A float32 view [ne3, ne2, ne1, ne0] of a node's data."""
    return np.ndarray(tuple(node.ne)[::-1], np.float32, _data(node), strides=tuple(node.nb)[::-1])


def integers(node: binding.Tensor) -> NDArray[np.int32]:
    """A copy of a node of expert ids, int32 [ne1, ne0]; views with gaps between rows too."""
    shape, strides = tuple(node.ne)[1::-1], tuple(node.nb)[1::-1]
    return np.ndarray(shape, np.int32, _data(node), strides=strides).copy()


def _data(node: binding.Tensor) -> Any:
    base = binding.ggml()
    if node.buffer and base.ggml_backend_buffer_is_host(node.buffer):
        size = base.ggml_nbytes(ctypes.byref(node))
        return (ctypes.c_char * size).from_address(node.data)
    return read_bytes(node)
