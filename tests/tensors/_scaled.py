"""Tiny llamas whose weights have separate scales, and the same models with them multiplied in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFWriter, quants

from ggsurgery.tensors import kernels
from tests._gguf import shapes

Tensors = dict[str, np.ndarray]
N_LAYERS = 4
N_VOCAB, WIDTH, FFN = 64, 64, 128


def model(seed: int = 0) -> Tensors:
    """The tensors of a llama of four layers, float32 in numpy's order."""
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes(N_LAYERS).items():
        wide = tuple({96: FFN}.get(n, n) for n in shape)
        found[name] = random.standard_normal(wide).astype(np.float32) * 0.2
        if len(shape) == 1:
            found[name] += 1
    return found


def with_scales(tensors: Tensors, layers: Mapping[int, float]) -> Tensors:
    """The same network, some layers of which store weight / scale beside the scale."""
    found = dict(tensors)
    for name, values in tensors.items():
        parts = name.split(".")
        if parts[0] != "blk" or values.ndim < 2 or int(parts[1]) not in layers:
            continue
        stem = name.removesuffix(".weight")
        scale = np.float32(layers[int(parts[1])] * (1 + 0.1 * len(stem)))
        found[name] = values / scale
        found[f"{stem}.scale"] = np.array([scale], np.float32)
        found[f"{stem}.input_scale"] = np.array([0.25], np.float32)
    return found


def folded(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """The network without scales: multiplied in float64, as llama-graph.cpp applies them."""
    found = {}
    for name, values in tensors.items():
        stem, _, end = name.rpartition(".")
        scale = tensors.get(f"{stem}.scale")
        if end in ("scale", "input_scale"):
            continue
        if scale is not None and (end == "weight" or stem.rpartition(".")[2].startswith("ffn_")):
            factor = scale.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
            found[name] = (values.astype(np.float64) * factor).astype(np.float32)
        else:
            found[name] = values
    return found


def write(
    path: Path, tensors: Tensors, kind: Callable[[str], int] | int = T.F32, n_layers: int = N_LAYERS
) -> Path:
    """A file that llama.cpp loads; `kind` is the type of the matrices, or gives it by name."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("Scaled")
    writer.add_block_count(n_layers)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("no_vocab")
    for name, values in tensors.items():
        number = kind(name) if callable(kind) else kind
        number = int(number) if values.ndim > 1 else int(T.F32)
        flat = np.ascontiguousarray(values, np.float32).ravel()
        raw = kernels.encode(number, flat, values.shape[-1])
        rows = raw.reshape(*values.shape[:-1], -1)
        writer.add_tensor(name, rows, raw_dtype=T(number))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path) -> Tensors:
    """float32 values by name, as gguf-py decodes them."""
    return {
        t.name: np.asarray(quants.dequantize(t.data, t.tensor_type), np.float32)
        for t in GGUFReader(path).tensors
    }
