"""What a GGUF file is, from its header alone: counts, types, layer kinds, memory to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .arch import LayerKind, rules_for
from .ggufio.types import Header

#: Bytes of one key or value element in llama.cpp's default cache type, f16.
CACHE_ELEMENT = 2


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer: its kind, parameters, bytes and the types of its 2-D tensors."""

    layer: int
    kind: str
    parameters: int
    bytes: int
    types: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures that `inspect` prints. All counts come from the shapes.

    `bits_per_weight` is tensor bytes × 8 / parameters. `kv_bytes` is the cache of keys and
    values at `context` tokens in f16; recurrent layers need none that grows.
    """

    file: str
    architecture: str
    known: bool
    name: str | None
    version: int
    byte_order: str
    shards: int
    layers: int
    tail: int
    parameters: int
    parameters_in_layers: int
    bytes: int
    bits_per_weight: float
    types: dict[str, int]
    embedding: int | None
    vocabulary: int | None
    context_trained: int | None
    context: int
    kv_bytes: int
    rows: tuple[LayerRow, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(header: Header, context: int | None = None) -> Summary:
    """Count everything in a header.

    Args:
        header: of the file.
        context: tokens to compute the cache for; None takes the trained length, at most 4096.

    Raises:
        FormatError: no layer count in the header.
        ArchitectureError: the header contradicts the rules of its architecture.
    """
    rules = rules_for(header, allow_unknown=True)
    kinds = rules.kinds(header)
    trained = header.number("{arch}.context_length")
    n_ctx = context or min(trained or 4096, 4096)
    rows = tuple(_row(header, i, kinds) for i in range(header.n_layers))
    count = header.n_parameters
    types: Counter[str] = Counter()
    for t in header.tensors:
        types[t.type_name] += t.nbytes
    return Summary(
        file=header.path.name,
        architecture=header.architecture,
        known=rules.known,
        name=_text(header, "general.name"),
        version=header.version,
        byte_order="little" if header.order == "<" else "big",
        shards=len(header.paths),
        layers=header.n_layers,
        tail=rules.n_tail(header),
        parameters=count,
        parameters_in_layers=sum(r.parameters for r in rows),
        bytes=header.n_bytes,
        bits_per_weight=header.n_bytes * 8 / count if count else 0.0,
        types=dict(types.most_common()),
        embedding=header.number("{arch}.embedding_length"),
        vocabulary=_vocabulary(header),
        context_trained=trained,
        context=n_ctx,
        kv_bytes=_cache_bytes(header, kinds, n_ctx),
        rows=rows,
    )


def _text(header: Header, key: str) -> str | None:
    found = header.get(key)
    return None if found is None else str(found)


def _vocabulary(header: Header) -> int | None:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if tokens is not None:
        return len(tokens)
    embedding = header.by_name.get("token_embd.weight")
    return embedding.shape[-1] if embedding is not None else None


def _row(header: Header, layer: int, kinds: Sequence[LayerKind]) -> LayerRow:
    tensors = header.layer_tensors(layer).values()
    types = Counter(t.type_name for t in tensors if len(t.shape) > 1)
    return LayerRow(
        layer,
        kinds[layer].label if layer < len(kinds) else "",
        sum(t.n_elements for t in tensors),
        sum(t.nbytes for t in tensors),
        " ".join(f"{name}×{n}" for name, n in types.most_common()),
    )


def _cache_bytes(header: Header, kinds: Sequence[LayerKind], n_ctx: int) -> int:
    """Keys and values: heads × (key + value length) × tokens × 2 bytes, a layer."""
    count = header.n_layers
    heads = header.numbers("{arch}.attention.head_count", count) or [1] * count
    kv_heads = header.numbers("{arch}.attention.head_count_kv", count) or heads
    width = header.number("{arch}.embedding_length") or 0
    default = width // max(heads, default=1) if max(heads, default=0) > 0 else 0
    key = header.number("{arch}.attention.key_length")
    value = header.number("{arch}.attention.value_length")
    width_each = (default if key is None else key) + (default if value is None else value)
    total = 0
    for layer, kind in enumerate(kinds):
        if kind.attention in ("recurrent", "none"):
            continue
        tokens = min(n_ctx, kind.window) if kind.window else n_ctx
        total += kv_heads[layer] * width_each * tokens * CACHE_ELEMENT
    return total
