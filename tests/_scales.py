"""A model file stored with separate scales: the same network in other numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, quants

from ggsurgery.ggufio.reader import Source
from ggsurgery.ggufio.types import TensorInfo
from ggsurgery.ggufio.writer import encode_header, padded
from ggsurgery.tensors import kernels


def with_scales_of(
    path: Path,
    out: Path,
    layers: Mapping[int, float],
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> Path:
    """Copy a file; the matrices of some layers become weight / scale of type `kind`, and scale."""
    arrays: dict[str, tuple[np.ndarray, int]] = {}
    for t in GGUFReader(path).tensors:
        parts = t.name.split(".")
        layer = int(parts[1]) if parts[0] == "blk" else None
        if layer not in layers or len(t.shape) < 2:
            arrays[t.name] = (np.asarray(t.data), int(t.tensor_type))
            continue
        scale = np.array([layers[layer]], np.float32)
        values = (quants.dequantize(t.data, t.tensor_type) / scale).astype(np.float32)
        raw = kernels.encode(int(kind), values.ravel(), values.shape[-1])
        arrays[t.name] = (raw.reshape(values.shape[0], -1), int(kind))
        arrays[t.name.removesuffix("weight") + "scale"] = (scale, int(GGMLQuantizationType.F32))
    infos, offset = [], 0
    with Source(path) as source:
        shapes = {t.name: t.shape for t in source.header.tensors}
        for name, (data, number) in arrays.items():
            shape = shapes.get(name, (1,))
            infos.append(TensorInfo(name, shape, number, offset, data.nbytes))
            offset += padded(data.nbytes, 32)
        header = encode_header(source.header.metadata, infos, "<", 32)
    with out.open("wb") as file:
        file.write(header)
        for info, (data, _) in zip(infos, arrays.values(), strict=True):
            file.seek(len(header) + info.offset)
            file.write(np.ascontiguousarray(data).tobytes())
        file.truncate(len(header) + offset)
    return out
