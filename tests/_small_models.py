"""Small llama models of random weights that llama.cpp loads, runs and quantizes in milliseconds.

Width 256 takes every quantized type; width 96 makes the K- and I-quants fall back. With
`vocabulary_of` a model understands text (the tokenizer entries of that file are copied).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGUFValueType

from ggsurgery.ggufio.header import read_header


def write_small_model(
    path: Path,
    *,
    width: int = 256,
    n_layers: int = 10,
    n_experts: int = 0,
    n_vocab: int = 128,
    vocabulary_of: Path | None = None,
    float16: bool = True,
    seed: int = 7,
) -> Path:
    """Write one and return its path; equal arguments give equal bytes."""
    random = np.random.default_rng(seed)
    hidden = 2 * width
    writer = GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(width // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(1 if float16 else 0)
    if n_experts:
        writer.add_expert_count(n_experts)
        writer.add_expert_used_count(2)
    if vocabulary_of is None:
        writer.add_tokenizer_model("no_vocab")
        writer.add_vocab_size(n_vocab)
    else:
        n_vocab = _copy_vocabulary(writer, vocabulary_of)

    def weight(name: str, *shape: int) -> None:
        values = random.standard_normal(shape) / np.sqrt(shape[-1])
        # a few large columns, as activations and weights of real models have them
        values[..., :: max(1, shape[-1] // 7)] *= 4
        writer.add_tensor(f"{name}.weight", values.astype(np.float16 if float16 else np.float32))

    def norm(name: str) -> None:
        values = 1 + random.standard_normal(width) / 10
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    weight("token_embd", n_vocab, width)
    norm("output_norm")
    weight("output", n_vocab, width)
    for i in range(n_layers):
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
        weight(f"blk.{i}.attn_q", width, width)
        weight(f"blk.{i}.attn_k", width // 2, width)
        weight(f"blk.{i}.attn_v", width // 2, width)
        weight(f"blk.{i}.attn_output", width, width)
        if n_experts:
            gate = random.standard_normal((n_experts, width)).astype(np.float32)
            writer.add_tensor(f"blk.{i}.ffn_gate_inp.weight", gate)
            weight(f"blk.{i}.ffn_gate_exps", n_experts, hidden, width)
            weight(f"blk.{i}.ffn_up_exps", n_experts, hidden, width)
            weight(f"blk.{i}.ffn_down_exps", n_experts, width, hidden)
        else:
            weight(f"blk.{i}.ffn_gate", hidden, width)
            weight(f"blk.{i}.ffn_up", hidden, width)
            weight(f"blk.{i}.ffn_down", width, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _copy_vocabulary(writer: GGUFWriter, path: Path) -> int:
    header = read_header(path)
    for key, value in header.metadata.items():
        if key.startswith("tokenizer.") and key != "tokenizer.chat_template":
            kind = value.item_type if value.type == GGUFValueType.ARRAY else None
            writer.add_key_value(key, value.value, value.type, sub_type=kind)
    return len(header.metadata["tokenizer.ggml.tokens"])
