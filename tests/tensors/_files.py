"""Small GGUF files with given tensors, written by gguf-py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType

from ggsurgery.ggufio.reader import Source
from ggsurgery.tensors import kernels

Arrays = Mapping[str, tuple[np.ndarray, int]]


def write_file(path: Path, tensors: Arrays, n_layers: int = 1) -> Source:
    """A file with these tensors; values are rounded to their type."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(n_layers)
    for name, (values, kind) in tensors.items():
        raw = kernels.encode(
            kind, np.ascontiguousarray(values, np.float32).ravel(), values.shape[-1]
        )
        rows = raw.reshape(*values.shape[:-1], -1)
        writer.add_tensor(name, rows, raw_dtype=GGMLQuantizationType(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Source(path)


def weights(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Numbers as in a model, numpy's shape (row length last)."""
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


def values_of(source: Source, name: str) -> np.ndarray:
    """float64 values of a tensor as gguf-py reads them."""
    from gguf import GGUFReader, quants

    tensor = next(t for t in GGUFReader(source.header.path).tensors if t.name == name)
    return quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
