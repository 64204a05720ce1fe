"""What a network computes besides its weights, read from a GGUF header.

The facts are those of llama.cpp's graphs (src/models/llama.cpp, qwen2.cpp, qwen3.cpp,
qwen3moe.cpp, gemma3.cpp at 0c1e570); a contract test compares the logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ...arch import properties, rules_for
from ...errors import ArchitectureError, FormatError
from ...ggufio.types import Header

#: How the values of a head pair up for the rotation: (0, 1) (2, 3) … or (0, d/2) (1, d/2 + 1) …
Pairs = Literal["adjacent", "halves"]

#: The architectures that can be trained, with how their heads rotate.
PAIRS: dict[str, Pairs] = {
    "llama": "adjacent",
    "qwen2": "halves",
    "qwen3": "halves",
    "qwen3moe": "halves",
    "gemma3": "halves",
}

#: The tensors that the network computes with; any other changes what a layer does.
_SHELL = ("token_embd.weight", "output_norm.weight", "output.weight", "output.bias")
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_LAYER = (
    *(f"{name}.{end}" for name in _MATRICES for end in ("weight", "bias")),
    "attn_norm.weight",
    "attn_q_norm.weight",
    "attn_k_norm.weight",
    "post_attention_norm.weight",
    "ffn_norm.weight",
    "post_ffw_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_exps.weight",
    "ffn_up_exps.weight",
    "ffn_down_exps.weight",
)
_ROPE_FACTORS = "rope_freqs.weight"
#: Heads of rerankers and embedding models, which next-token logits do not pass.
_OTHER_HEADS = ("cls.output.weight", "dense_2.weight", "dense_3.weight")


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a layer turns its heads: pair i at position p by p · scale · base^(−2i/d)."""

    base: float
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Form:
    """The numbers that a forward pass needs.

    Args:
        rotations: one a layer.
        windows: how many tokens each layer attends over; None for all.
        attention_scale: what the products of queries and keys are multiplied by.
        embedding_scale: what the embeddings are multiplied by.
        gelu: GELU in the feed-forward network, else SiLU.
        experts_used: experts a token, 0 without experts.
        softcap: the logits become softcap · tanh(logits / softcap); 0 leaves them.
    """

    architecture: str
    n_layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    eps: float
    pairs: Pairs
    rotations: tuple[Rotation, ...]
    windows: tuple[int | None, ...]
    attention_scale: float
    embedding_scale: float = 1.0
    gelu: bool = False
    experts_used: int = 0
    softcap: float = 0.0


def form_of(header: Header) -> Form:
    """The form of a model's network.

    Raises:
        ArchitectureError: the architecture, or something in the file, has no network here.
        FormatError: a key is missing or impossible.
    """
    name = header.architecture
    if name not in PAIRS:
        raise ArchitectureError(
            f"models of the architecture {name or 'unknown'} cannot be trained",
            file=header.path,
            expected=", ".join(PAIRS),
            found=name or "none",
            hint="`ggsurgery heal` needs no training and works on more architectures.",
        )
    _check_tensors(header)
    width = properties.count(header, "embedding_length")
    heads = _same(header, "attention.head_count")
    size = properties.count(header, "attention.key_length", width // max(1, heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := properties.count(header, key, size)) != size:
            raise _no_network(header, key, f"{size}, the length of a key", found)
    n, gemma = header.n_layers, name == "gemma3"
    windows = tuple(kind.window for kind in rules_for(header).kinds(header))
    scaled_by = width // heads if gemma and n == 62 else size
    return Form(
        architecture=name,
        n_layers=n,
        width=width,
        heads=heads,
        kv_heads=_same(header, "attention.head_count_kv", heads),
        head_size=size,
        eps=_float(header, "attention.layer_norm_rms_epsilon"),
        pairs=PAIRS[name],
        rotations=_rotations(header, windows),
        windows=windows,
        attention_scale=1 / math.sqrt(scaled_by),
        embedding_scale=math.sqrt(width) if gemma else 1.0,
        gelu=gemma,
        experts_used=properties.count(header, "expert_used_count"),
        softcap=_float(header, "final_logit_softcapping", 0.0) if gemma else 0.0,
    )


def _rotations(header: Header, windows: Iterable[int | None]) -> tuple[Rotation, ...]:
    kind = properties.get(header, "rope.scaling.type", "linear")
    if kind not in ("linear", "none"):
        raise _no_network(header, "rope.scaling.type", "linear or none", kind)
    if (factor := _float(header, "rope.scaling.attn_factor", 1.0)) != 1:
        raise _no_network(header, "rope.scaling.attn_factor", 1, factor)
    old = _float(header, "rope.scale_linear", 0.0)
    stretch = _float(header, "rope.scaling.factor", old) if kind == "linear" else 0.0
    full = Rotation(_float(header, "rope.freq_base", 1e4), 1 / stretch if stretch else 1.0)
    # llama.cpp's defaults for windowed layers: base 10,000 and no scale
    windowed = Rotation(_float(header, "rope.freq_base_swa", 1e4))
    return tuple(full if size is None else windowed for size in windows)


def _check_tensors(header: Header) -> None:
    """Refuse tensors that the network does not compute with."""
    factors = (_ROPE_FACTORS,) if header.architecture == "llama" else ()
    shell = (*_SHELL, *_OTHER_HEADS, *factors)
    known = {"shell": shell, "layer": _LAYER}
    for tensor in header.tensors:
        names = known["shell" if tensor.layer is None else "layer"]
        stem, _, end = tensor.suffix.rpartition(".")
        scale = end in ("scale", "input_scale") and f"{stem}.weight" in names
        if tensor.suffix not in names and not scale:
            raise ArchitectureError(
                f"training does not know this tensor of a {header.architecture} model",
                file=header.path,
                tensor=tensor.name,
                hint="`ggsurgery heal` needs no training.",
            )
    missing = [n for n in ("token_embd.weight", "output_norm.weight") if n not in header.by_name]
    if missing:
        raise FormatError("tensor missing", file=header.path, tensor=missing[0])


def _same(header: Header, key: str, default: int | None = None) -> int:
    """A count that all layers share."""
    found = header.numbers("{arch}." + key, header.n_layers)
    if found is None and default is not None:
        return default
    if not found or len(set(found)) > 1 or found[0] < 1:
        raise _no_network(header, key, "one number for all layers", header.get("{arch}." + key))
    return found[0]


def _float(header: Header, key: str, default: float | None = None) -> float:
    found = properties.get(header, key, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise FormatError(
            "expected a number",
            file=header.path,
            tensor=properties.full_key(header, key),
            found="none" if found is None else str(found)[:60],
        )
    return float(found)


def _no_network(header: Header, key: str, expected: object, found: object) -> ArchitectureError:
    return ArchitectureError(
        "models with this setting cannot be trained",
        file=header.path,
        tensor=properties.full_key(header, key),
        expected=expected,
        found="none" if found is None else str(found)[:60],
        hint="`ggsurgery heal` needs no training.",
    )
