"""Every entry that the program reads, in every wrong type: refused or ignored, never a crash."""

from __future__ import annotations

import struct

import pytest
from gguf import GGUFValueType as V

from .._gguf import Raw, kv, kv_array, kv_text, kv_u32, tensor, text
from ..fuzz.headers import exercise

KEYS = (
    "general.architecture",
    "general.alignment",
    "general.name",
    "general.size_label",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.vocab_size",
    "llama.expert_count",
    "llama.nextn_predict_layers",
    "llama.leading_dense_block_count",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.sliding_window",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.chat_template",
    "split.count",
    "split.no",
    "split.tensors.count",
    "ggsurgery.version",
    "ggsurgery.recipe",
    "ggsurgery.sources",
    "ggsurgery.padding",
)

VALUES = {
    "text": (V.STRING, text("nonsense")),
    "empty text": (V.STRING, text("")),
    "zero": (V.UINT32, bytes(4)),
    "one": (V.UINT8, b"\1"),
    "minus one": (V.INT64, b"\xff" * 8),
    "2**64-1": (V.UINT64, b"\xff" * 8),
    "nan": (V.FLOAT32, struct.pack("<f", float("nan"))),
    "infinity": (V.FLOAT64, struct.pack("<d", float("inf"))),
    "true": (V.BOOL, b"\1"),
    "no numbers": (V.ARRAY, struct.pack("<IQ", V.UINT32, 0)),
    "no texts": (V.ARRAY, struct.pack("<IQ", V.STRING, 0)),
    "two numbers": (V.ARRAY, struct.pack("<IQ2i", V.INT32, 2, -5, 2**31 - 1)),
    "two texts": (V.ARRAY, struct.pack("<IQ", V.STRING, 2) + text("a") + text(b"\xff")),
    "floats": (V.ARRAY, struct.pack("<IQ3f", V.FLOAT32, 3, 1.5, float("nan"), 2)),
}


def model(changed: str, kind: V, payload: bytes) -> Raw:
    whole = {
        "general.architecture": kv_text("general.architecture", "llama"),
        "general.name": kv_text("general.name", "Tiny 1K"),
        "general.size_label": kv_text("general.size_label", "1K"),
        "llama.block_count": kv_u32("llama.block_count", 3),
        "llama.context_length": kv_u32("llama.context_length", 64),
        "llama.embedding_length": kv_u32("llama.embedding_length", 8),
        "llama.attention.head_count": kv_u32("llama.attention.head_count", 2),
        "tokenizer.ggml.tokens": kv_array("tokenizer.ggml.tokens", V.STRING, 2, text("a") * 2),
    }
    names = ["output_norm.weight", *(f"blk.{i}.ffn_up.weight" for i in range(3))]
    infos = [tensor(n, (8,), 0, 32 * i) for i, n in enumerate(names)]
    return Raw([*(whole | {changed: kv(changed, kind, payload)}).values()], infos, bytes(128))


@pytest.mark.parametrize("key", KEYS)
def test_every_type(tmp_path, key):
    crashes = []
    for name, (kind, payload) in VALUES.items():
        path = model(key, kind, payload).write(tmp_path / f"{name.replace('*', '')}.gguf")
        try:
            exercise(path)
        except Exception as error:  # noqa: BLE001 - any crash is a finding
            crashes.append(f"{key} = {name}: {error!r}")
    assert not crashes
