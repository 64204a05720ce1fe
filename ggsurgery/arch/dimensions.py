"""Tensor sizes of a layer, derived from a header's keys as llama.cpp's loader does.

Source: `llama_model_base::load_hparams` (src/llama-model.cpp, 0c1e570) and the getters of
llama_hparams. Names of sizes are used in data/_tensors.toml.
"""

from __future__ import annotations

from ..ggufio.types import Header

HEADS, KV_HEADS = "attention.head_count", "attention.head_count_kv"
KEY, VALUE, WIDTH = "attention.key_length", "attention.value_length", "embedding_length"
FEED = "feed_forward_length"
KEY_MLA, VALUE_MLA = "attention.key_length_mla", "attention.value_length_mla"
ROPE = "rope.dimension_count"

#: Sizes that many loaders take from the first layer for all layers; their names end in 0.
#: With a ~ the size is known only if the layer's equals the first layer's.
BY_LAYER = ("ff", "2*ff", "heads", "q", "k", "v", "o", "qkv", "2*q", "q_mla", "o_mla")

#: The keys (without `{arch}.`) that a size is computed from, for messages.
KEYS: dict[str, tuple[str, ...]] = {
    "embd": (WIDTH,),
    "ff": (FEED,),
    "2*ff": (FEED,),
    "heads": (HEADS,),
    "key": (KEY,),
    "value": (VALUE,),
    "q": (HEADS, KEY),
    "k": (KV_HEADS, KEY),
    "v": (KV_HEADS, VALUE),
    "o": (HEADS, VALUE),
    "qkv": (HEADS, KV_HEADS, KEY, VALUE),
    "2*q": (HEADS, KEY),
    "experts": ("expert_count",),
    "expert_ff": ("expert_feed_forward_length",),
    "2*expert_ff": ("expert_feed_forward_length",),
    "shared_ff": ("expert_shared_feed_forward_length",),
    "context": ("context_length",),
    "q_lora": ("attention.q_lora_rank",),
    "kv_lora": ("attention.kv_lora_rank",),
    "types": ("tokenizer.ggml.token_type_count",),
    "q_mla": (HEADS, KEY_MLA),
    "o_mla": (HEADS, VALUE_MLA),
    "value_mla": (VALUE_MLA,),
    "nope": (KEY_MLA, ROPE),
    "kv_lora+rope": ("attention.kv_lora_rank", ROPE),
}
KEYS |= {f"{name}{mark}": KEYS[name] for name in BY_LAYER for mark in "0~"}


def dimensions(header: Header, layer: int | None) -> dict[str, int]:
    """The sizes that the header states, by name; a per-layer array gives this layer's entry.

    A size is absent if its keys are missing, have a wrong type, or (outside the layers) differ by
    layer. Only the length of a head has a default: embedding over heads.
    """
    found = _of_layer(header, layer)
    first = found if layer == 0 else _of_layer(header, 0)
    same = {f"{n}~": first[n] for n in BY_LAYER if n in first and first[n] == found.get(n)}
    return found | same | {f"{name}0": first[name] for name in BY_LAYER if name in first}


def _of_layer(header: Header, layer: int | None) -> dict[str, int]:

    def one(key: str) -> int | None:
        found = header.get(f"{{arch}}.{key}")
        if isinstance(found, list):
            if layer is None or layer >= len(found):
                return None
            found = found[layer]
        return found if type(found) is int and found >= 0 else None

    found: dict[str, int | None] = {
        "embd": one(WIDTH),
        "ff": one(FEED),
        "heads": one(HEADS),
        "experts": one("expert_count"),
        "expert_ff": one("expert_feed_forward_length"),
        "shared_ff": one("expert_shared_feed_forward_length"),
        "context": one("context_length"),
        "q_lora": one("attention.q_lora_rank"),
        "kv_lora": one("attention.kv_lora_rank"),
        "types": header.number("tokenizer.ggml.token_type_count"),
    }
    key, value = _head_length(header, KEY), _head_length(header, VALUE)
    kv_heads = one(KV_HEADS) if header.get(f"{{arch}}.{KV_HEADS}") is not None else found["heads"]
    if None not in (found["heads"], kv_heads, key, value):
        heads = found["heads"]
        assert heads is not None and kv_heads is not None and key is not None and value is not None
        found |= {"key": key, "value": value, "q": heads * key, "k": kv_heads * key}
        found |= {"v": kv_heads * value, "o": heads * value, "2*q": 2 * heads * key}
        found["qkv"] = heads * key + kv_heads * (key + value)
    found |= _latent(one(KEY_MLA), one(VALUE_MLA), one(ROPE), found)
    for name in ("ff", "expert_ff"):
        size = found[name]
        found[f"2*{name}"] = None if size is None else 2 * size
    return {name: size for name, size in found.items() if size is not None}


def _latent(
    key: int | None, value: int | None, rope: int | None, known: dict[str, int | None]
) -> dict[str, int | None]:
    """The sizes of latent attention; empty if the header does not state its lengths.

    Args:
        key, value: head lengths as the model uses them; the plain lengths are the compressed ones.
        rope: number of the key's values that are rotated; the others come from the latent.
    """
    heads, latent = known["heads"], known["kv_lora"]
    if not key or not value or rope is None or heads is None:
        return {}
    return {
        "q_mla": heads * key,
        "o_mla": heads * value,
        "value_mla": value,
        "nope": key - rope,
        "kv_lora+rope": None if latent is None else latent + rope,
    }


def _head_length(header: Header, key: str) -> int | None:
    """The key, else the width over the first layer's heads; None if windowed layers have their
    own."""
    stated = header.get(f"{{arch}}.{key}")
    swa = header.get(f"{{arch}}.{key}_swa")
    if swa is not None and swa != stated:
        return None
    if stated is not None:
        return header.number(f"{header.architecture}.{key}")
    width, heads = header.number(f"{header.architecture}.{WIDTH}"), header.get(f"{{arch}}.{HEADS}")
    first = heads[0] if isinstance(heads, list) and heads else heads
    return width // first if type(first) is int and first > 0 and width is not None else None
