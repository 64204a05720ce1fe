"""Which tensors of a layer belong to its attention, which to its feed-forward network."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ..ggufio.constants import GGMLQuantizationType

#: Whether the layer has a tensor of that suffix.
Has = Callable[[str], bool]

_FFN: Final = ("ffn_", "post_ffw_norm", "layer_output_norm", "exp_probs_b", "channel_mix")

#: Tensors that write into the residual stream; scaling them damps a layer.
_RESIDUAL: Final = (
    "attn_output",
    "attn_out",
    "ffn_down",
    "ffn_down_exps",
    "ffn_down_shexp",
    "ffn_down_chexps",
    "ssm_out",
    "shortconv.out_proj",
    "time_mix_output",
    "channel_mix_value",
    "layer_output_scale",
)
#: `post_norm` closes the per-layer embeddings of gemma3n and gemma4.
_POST_NORMS: Final = ("post_attention_norm", "post_ffw_norm", "post_norm")
_GROK_NORMS: Final = ("attn_output_norm", "layer_output_norm", "post_ffw_norm")

#: The tensors that LaCo's published code merges: the seven projections of a LLaMA layer.
_PROJECTIONS: Final = frozenset(
    f"{name}.weight"
    for name in (
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_qkv",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    )
)

#: Tensors with one part an expert along their outermost axis: router, selection bias, stacks.
_EXPERTS: Final = re.compile(
    r"(ffn_gate_inp\.(weight|bias)|exp_probs_b(_vl)?(\.(weight|bias))?"
    r"|ffn_(gate|up|down|gate_up)_exps\.(weight|bias|scale|input_scale|weight_scale))"
)

#: Where the inner channels of a layer's feed-forward network are: the axis in ggml's order.
_CHANNELS: Final = {
    "ffn_gate.weight": 1,
    "ffn_up.weight": 1,
    "ffn_gate.bias": 0,
    "ffn_up.bias": 0,
    "ffn_down.weight": 0,
    "ffn.act.scales": 0,
}

#: Where the heads of a layer's attention are, one key/value group behind the other.
_GROUPS: Final = (
    {f"attn_{x}.weight": 1 for x in "qkv"}
    | {f"attn_{x}.bias": 0 for x in "qkv"}
    | {"attn_output.weight": 0}
)

#: Tensors with one part a token along their outermost axis.
_TOKENS: Final = re.compile(
    r"(token_embd\.weight|output\.(weight|bias)|per_layer_token_embd\.weight"
    r"|blk\.[0-9]+\.(nextn\.(embed_tokens|shared_head_head)\.weight|ffn_gate_tid2eid\.weight))"
)

_INTEGERS: Final = frozenset(
    int(GGMLQuantizationType[n])
    for n in ("I8", "I16", "I32", "I64")
    if n in GGMLQuantizationType.__members__
)


def in_part(suffix: str, part: str, has: Has) -> bool:
    """Whether a tensor belongs to the part `all`, `attn` or `ffn` of its layer.

    Norms belong to the half that contains them. `post_attention_norm` closes the attention half
    in families with a norm after it, and opens the feed-forward half if there is no `ffn_norm`.
    """
    if part == "all":
        return True
    ffn = suffix.startswith(_FFN)
    if suffix.startswith("post_attention_norm"):
        ffn = not (has("ffn_norm.weight") or has("post_ffw_norm.weight"))
    return ffn == (part == "ffn")


def is_projection(suffix: str) -> bool:
    """Whether LaCo's published code would merge the tensor."""
    return suffix in _PROJECTIONS


def damps(suffix: str, has: Has) -> bool:
    """Whether scaling this tensor scales what the layer adds to the residual stream.

    If a norm follows the projection, only the weight of that norm does.
    """
    stem = suffix.rsplit(".", 1)[0]
    if has("attn_output_norm.weight") and has("ffn_norm.weight"):
        return stem in _GROK_NORMS  # elsewhere attn_output_norm opens the feed-forward half
    if has("post_ffw_norm.weight"):
        return stem in _POST_NORMS
    return stem in _RESIDUAL


def scales_all(has: Has) -> bool:
    """Whether the layer multiplies what it got too (gemma4), so that no weight can damp it.

    talkie's `layer_output_scale` is a factor on what it adds.
    """
    return has("layer_output_scale.weight") and has("post_ffw_norm.weight")


def counts_experts(suffix: str) -> bool:
    """Whether the outermost axis of a layer's tensor counts the layer's experts."""
    return _EXPERTS.fullmatch(suffix) is not None


def channel_axis(suffix: str) -> int | None:
    """The axis of a layer's tensor that counts the inner channels of its feed-forward network."""
    return _CHANNELS.get(suffix)


def group_axis(suffix: str) -> int | None:
    """The axis of a layer's tensor that counts the heads of its attention."""
    return _GROUPS.get(suffix)


def counts_tokens(name: str) -> bool:
    """Whether the outermost axis of a tensor counts the tokens of the vocabulary."""
    return _TOKENS.fullmatch(name) is not None


def is_integer(kind: int) -> bool:
    """Whether a tensor holds indices, which have no arithmetic."""
    return kind in _INTEGERS
