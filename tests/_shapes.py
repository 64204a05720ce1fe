"""GGUF files with the exact shapes of published models and no weights.

The data section is a hole in a sparse file: it reads as zeros and takes no room, so counts
of parameters can be checked on a model of 16 GB within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, TokenType

from ggsurgery.tokenizer.bpe import byte_alphabet

TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "a", "b", "ab")


#: A vocabulary for any text: one token a byte, and the marks of ChatML.
BYTES = (*byte_alphabet().values(), "<s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "ab")


@dataclass(frozen=True)
class Shape:
    """The sizes of a dense Qwen3 model; `tied` means no output tensor of its own."""

    name: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head: int
    n_vocab: int
    tied: bool
    context: int = 40960


QWEN3_1_7B = Shape("Qwen3 1.7B", 28, 2048, 6144, 16, 8, 128, 151936, tied=True)
QWEN3_8B = Shape("Qwen3 8B Base", 36, 4096, 12288, 32, 8, 128, 151936, tied=False)
RUADAPT_4B = Shape("RuadaptQwen3 4B", 36, 2560, 9728, 32, 8, 128, 146260, tied=True)
TINY = Shape("Tiny", 6, 64, 128, 4, 2, 16, len(TOKENS), tied=True, context=256)


def small(name: str, n_layers: int) -> Shape:
    """A model of that many layers that takes every quantized type and any text (`BYTES`)."""
    return Shape(name, n_layers, 256, 256, 4, 2, 64, len(BYTES), tied=True, context=1024)


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Tensor names of a Qwen3 file and their shapes in ggml's order (row length first)."""
    d, kv, q = shape.n_embd, shape.n_head_kv * shape.head, shape.n_head * shape.head
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (d, shape.n_vocab),
        "output_norm.weight": (d,),
    }
    if not shape.tied:
        found["output.weight"] = (d, shape.n_vocab)
    for i in range(shape.n_layers):
        layer = {
            "attn_norm": (d,),
            "attn_q": (d, q),
            "attn_k": (d, kv),
            "attn_v": (d, kv),
            "attn_output": (q, d),
            "attn_q_norm": (shape.head,),
            "attn_k_norm": (shape.head,),
            "ffn_norm": (d,),
            "ffn_gate": (d, shape.n_ff),
            "ffn_up": (d, shape.n_ff),
            "ffn_down": (shape.n_ff, d),
        }
        found |= {f"blk.{i}.{name}.weight": dims for name, dims in layer.items()}
    return found


def write_shapes(
    path: Path,
    shape: Shape,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.BF16,
    seed: int | None = None,
    tokens: Sequence[str] | None = None,
    chat_template: str | None = None,
    license: str | None = None,
) -> Path:
    """Write a sparse file of these shapes, or, with a seed, one of random weights (BF16).

    Args:
        kind: the type of all matrices; vectors are F32.
        tokens: a vocabulary (its special tokens found by their form); None writes none.
    """
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(shape.name)
    if license is not None:
        writer.add_license(license)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    if tokens is not None:
        _add_vocabulary(writer, tokens)
    else:
        writer.add_tokenizer_model("no_vocab")
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    total = 0
    for name, dims in tensor_shapes(shape).items():
        used = kind if len(dims) > 1 else GGMLQuantizationType.F32
        block, size = GGML_QUANT_SIZES[used]
        nbytes = int(np.prod(dims, dtype=np.int64)) // block * size
        # gguf-py wants numpy's order; the type is given, so the dtype does not matter
        writer.add_tensor_info(name, dims[::-1], np.dtype(np.float16), nbytes, raw_dtype=used)
        total += -(-nbytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as stream:
        start = -(-stream.seek(0, 2) // 32) * 32
        stream.truncate(start + total)
        if seed is not None:
            _fill(stream, start, shape, seed)
    return path


def _fill(stream: BinaryIO, start: int, shape: Shape, seed: int) -> None:
    """Random weights: BF16 matrices, F32 norms near one."""
    random = np.random.default_rng(seed)
    for dims in tensor_shapes(shape).values():
        values = random.standard_normal(dims[::-1], dtype=np.float32)
        if len(dims) > 1:
            halves = (values / np.sqrt(dims[0], dtype=np.float32)).view(np.uint32) >> 16
            data = halves.astype(np.uint16).tobytes()
        else:
            data = (1 + values / 10).astype(np.float32).tobytes()
        stream.seek(start)
        stream.write(data)
        start += -(-len(data) // 32) * 32


def _add_vocabulary(writer: gguf.GGUFWriter, tokens: Sequence[str]) -> None:
    special = {t for t in tokens if t.startswith("<") and t.endswith(">")}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(list(tokens))
    writer.add_token_types(
        [int(TokenType.CONTROL if t in special else TokenType.NORMAL) for t in tokens]
    )
    writer.add_token_merges(["a b"] if {"a", "b", "ab"} <= set(tokens) else [])
    for key, text in (("bos", "<s>"), ("eos", "<|im_end|>"), ("pad", "<|endoftext|>")):
        if text in tokens:
            getattr(writer, f"add_{key}_token_id")(tokens.index(text))
    writer.add_add_bos_token(False)
