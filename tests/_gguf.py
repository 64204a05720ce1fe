"""Tiny GGUF files from a seed: whole ones by gguf-py, broken ones byte by byte.

`tiny_llama` writes a model that llama.cpp loads, through gguf-py's own writer. `Raw` puts a
file together field by field with `struct`, so that any field can be made to lie.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter

N_VOCAB, WIDTH, HEADS, KV_HEADS, FFN = 64, 64, 4, 2, 96


def tiny_llama(
    path: Path,
    layers: int = 4,
    *,
    seed: int = 0,
    kind: T = T.F32,
    big_endian: bool = False,
    split: int = 0,
    tied: bool = True,
    meta: Callable[[GGUFWriter], None] | None = None,
) -> Path:
    """A llama of random weights, about 60 KB a layer in F32.

    Args:
        kind: type of the 2-D tensors.
        split: tensors a shard; 0 writes one file. The first shard's path is returned.
        tied: whether the embedding serves as output too.
        meta: adds entries of its own.
    """
    endian = GGUFEndian.BIG if big_endian else GGUFEndian.LITTLE
    writer = GGUFWriter(path, "llama", endianess=endian, split_max_tensors=split)
    writer.add_name("Tiny 300K")
    writer.add_size_label("300K")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("no_vocab")
    if meta is not None:
        meta(writer)
    rng = np.random.default_rng(seed)
    for name, shape in shapes(layers, tied=tied).items():
        values = rng.standard_normal(shape).astype(np.float32) * 0.05
        if len(shape) == 1:
            _add(writer, name, np.ones(shape, np.float32) + values, T.F32)
        else:
            _add(writer, name, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if not split:
        return path
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def _add(writer: GGUFWriter, name: str, values: np.ndarray, kind: T) -> None:
    if kind is T.F32:
        writer.add_tensor(name, values)
    elif kind is T.F16:
        writer.add_tensor(name, values.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def shapes(layers: int, *, tied: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and numpy shapes (rows, row length) of a tiny llama's tensors."""
    kv = WIDTH * KV_HEADS // HEADS
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (N_VOCAB, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    if not tied:
        found["output.weight"] = (N_VOCAB, WIDTH)
    for i in range(layers):
        found |= {
            f"blk.{i}.attn_norm.weight": (WIDTH,),
            f"blk.{i}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{i}.attn_k.weight": (kv, WIDTH),
            f"blk.{i}.attn_v.weight": (kv, WIDTH),
            f"blk.{i}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{i}.ffn_norm.weight": (WIDTH,),
            f"blk.{i}.ffn_gate.weight": (FFN, WIDTH),
            f"blk.{i}.ffn_up.weight": (FFN, WIDTH),
            f"blk.{i}.ffn_down.weight": (WIDTH, FFN),
        }
    return found


def big_llama(path: Path, layers: int, nbytes: int, *, sparse: bool = False) -> Path:
    """A file of `layers` layers with one F32 tensor of `nbytes` each; llama.cpp has no use for it.

    `sparse` leaves the data a hole: such a file of any size takes no room.
    """
    kvs = [kv_text("general.architecture", "llama"), kv_u32("llama.block_count", layers)]
    width = nbytes // 4
    infos = [tensor(f"blk.{i}.ffn_up.weight", (width,), T.F32, i * nbytes) for i in range(layers)]
    end = layers * nbytes
    # what `verify` asks of a llama model besides; a block each, so that big tensors stay in theirs
    small = [n for n in shapes(layers) if "ffn_up" not in n]
    infos += [tensor(n, (1024,), T.F32, end + 4096 * i) for i, n in enumerate(small)]
    head = Raw(kvs, infos, b"").build()
    with path.open("wb") as file:
        file.write(head)
        if not sparse:
            rng = np.random.default_rng(0)
            for _ in range(layers):
                block = rng.bytes(1 << 20)
                for at in range(0, nbytes, len(block)):
                    file.write(block[: nbytes - at])
        file.truncate(len(head) + end + 4096 * len(small))
    return path


# -- reading with gguf-py: the judge that is not ours ----------------------------------


def peer_tensors(path: Path) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """name → (type, ggml shape, bytes) of a file, by gguf-py's reader, in the file's order."""
    reader = GGUFReader(path)
    return {
        t.name: (int(t.tensor_type), tuple(int(n) for n in t.shape), t.data.tobytes())
        for t in reader.tensors
    }


def peer_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a file in Python's types, by gguf-py's reader."""
    reader = GGUFReader(path)
    skip = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")
    return {k: f.contents() for k, f in reader.fields.items() if k not in skip}


def layer_bytes(path: Path, layer: int) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """The tensors of one layer by their name without `blk.N.`, by gguf-py's reader."""
    mark = f"blk.{layer}."
    return {n.removeprefix(mark): t for n, t in peer_tensors(path).items() if n.startswith(mark)}


# -- byte by byte ------------------------------------------------------------------------


def text(value: str | bytes, order: str = "<") -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(order + "Q", len(data)) + data


def kv(key: str | bytes, kind: int, payload: bytes, order: str = "<") -> bytes:
    return text(key, order) + struct.pack(order + "I", kind) + payload


def kv_text(key: str | bytes, value: str | bytes, order: str = "<") -> bytes:
    return kv(key, GGUFValueType.STRING, text(value, order), order)


def kv_u32(key: str | bytes, value: int, order: str = "<") -> bytes:
    return kv(key, GGUFValueType.UINT32, struct.pack(order + "I", value), order)


def kv_array(key: str, item: int, count: int, payload: bytes, order: str = "<") -> bytes:
    return kv(key, GGUFValueType.ARRAY, struct.pack(order + "IQ", item, count) + payload, order)


def tensor(
    name: str | bytes,
    shape: Sequence[int] = (32,),
    kind: int = T.F32,
    offset: int = 0,
    *,
    n_dims: int | None = None,
    order: str = "<",
) -> bytes:
    dims = len(shape) if n_dims is None else n_dims
    return text(name, order) + struct.pack(
        f"{order}I{len(shape)}QIQ", dims, *shape, int(kind), offset
    )


@dataclass
class Raw:
    """A GGUF file, field by field. `n_kv` and `n_tensors` default to the true counts."""

    kvs: list[bytes] = field(default_factory=lambda: [kv_text("general.architecture", "llama")])
    tensors: list[bytes] = field(default_factory=lambda: [tensor("a")])
    data: bytes = bytes(128)
    magic: bytes = b"GGUF"
    version: int = 3
    order: str = "<"
    alignment: int = 32
    n_kv: int | None = None
    n_tensors: int | None = None

    def build(self) -> bytes:
        head = self.magic + struct.pack(
            self.order + "IQQ",
            self.version,
            len(self.tensors) if self.n_tensors is None else self.n_tensors,
            len(self.kvs) if self.n_kv is None else self.n_kv,
        )
        head += b"".join(self.kvs) + b"".join(self.tensors)
        return head + bytes(-len(head) % self.alignment) + self.data

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path
