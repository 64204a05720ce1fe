"""How much a type distorts a tensor: measured on its own weights with ggml's own quantizers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
from numpy.typing import NDArray

from .. import host
from ..ggufio.reader import Source
from ..ggufio.types import TensorInfo
from . import binding

F32 = NDArray[np.float32]


def sampled_rows(source: Source, tensor: TensorInfo, n_rows: int) -> F32:
    """Evenly spread rows of a tensor, decoded: float32 [≤ n_rows, n_in]."""
    n_in, total = tensor.shape[0], tensor.n_elements // tensor.shape[0]
    raw = np.frombuffer(source.data(tensor), np.uint8).reshape(total, -1)
    chosen = np.unique(np.linspace(0, total - 1, min(total, n_rows)).astype(int))
    rows = gguf.quants.dequantize(raw[chosen], gguf.GGMLQuantizationType(tensor.type))
    return np.ascontiguousarray(rows, np.float32).reshape(-1, n_in)


def relative_error(rows: F32, kind: int, importance: F32 | None = None) -> float:
    """Σ a (w − ŵ)² over Σ a w², a the importance of each column (1 without): 0 is lossless.

    Args:
        rows: float32 [n, n_in]; n_in a multiple of the type's block.
        kind: a ggml type.
        importance: float32 [n_in], mean squared activations; also steers the quantizer, as
            it does in llama-quantize.
    """
    quantized = quantize_rows(rows, kind, importance)
    back = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType(kind)).reshape(rows.shape)
    weights = np.ones(rows.shape[1]) if importance is None else importance.astype(np.float64)
    wrong = ((rows - back).astype(np.float64) ** 2).sum(axis=0) @ weights
    size = (rows.astype(np.float64) ** 2).sum(axis=0) @ weights
    return float(wrong / size) if size > 0 else 0.0


def quantize_rows(rows: F32, kind: int, importance: F32 | None = None) -> NDArray[np.uint8]:
    """ggml's encoding of float32 [n, n_in]: uint8 [n, row bytes]."""
    base = binding.ggml()
    n, n_in = rows.shape
    out = np.empty((n, base.ggml_row_size(kind, n_in)), np.uint8)
    pointer = ctypes.c_void_p
    data = np.ascontiguousarray(rows, np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    base.ggml_quantize_chunk(
        kind,
        data.ctypes.data_as(pointer),
        out.ctypes.data_as(pointer),
        0,
        n,
        n_in,
        None if weights is None else weights.ctypes.data_as(pointer),
    )
    return out


def relative_errors(
    source: Source,
    tensors: Sequence[tuple[TensorInfo, Sequence[int], F32 | None]],
    n_rows: int = 64,
) -> list[list[float]]:
    """`relative_error` of each tensor for each of its types, on all threads.

    Experts share one importance here: the mean over them.
    """

    def measure(job: tuple[TensorInfo, Sequence[int], F32 | None]) -> list[float]:
        tensor, kinds, importance = job
        rows = sampled_rows(source, tensor, n_rows)
        if importance is not None:
            importance = importance.reshape(-1, rows.shape[1]).mean(axis=0)
        return [relative_error(rows, kind, importance) for kind in kinds]

    with ThreadPoolExecutor(host.n_threads()) as pool:
        return list(pool.map(measure, tensors))
