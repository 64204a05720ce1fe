"""A summary of a GGUF file from its header alone: counts, types, layer kinds, memory to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..arch import LayerKind, rules_for
from ..ggufio.purpose import MODEL, purpose
from ..ggufio.types import Header
from ..ggufio.writer import padded

#: Bytes of one key or value element in llama.cpp's default cache type, f16.
CACHE_ELEMENT = 2
#: llama.cpp's default batch (n_ubatch), and the number of tokens that its caches grow by.
BATCH, CELLS = 512, 256


#: Characters of a text that a summary shows.
LONGEST = 200


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

    `purpose` is what the file is: `a language model`, `a LoRA adapter` …; of files without
    layers the figures about layers, context and cache are zero.

    `bits_per_weight` is tensor bytes × 8 / parameters. `kv_bytes` is the cache of keys and
    values at `context` tokens in f16; what recurrent layers keep does not grow and is left out.
    """

    file: str
    purpose: str
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

    @property
    def layered(self) -> bool:
        """Whether it is a language model; other files have no layers to count."""
        return self.purpose == MODEL.name

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
    found = purpose(header)
    rules = rules_for(header, allow_unknown=True) if found is MODEL else None
    kinds = rules.kinds(header) if rules else ()
    n_layers = header.n_layers if rules else 0
    trained = header.number("{arch}.context_length")
    n_ctx = context or min(trained or 4096, 4096)
    rows = tuple(_row(header, i, kinds) for i in range(n_layers))
    count = header.n_parameters
    types: Counter[str] = Counter()
    for t in header.tensors:
        types[t.type_name] += t.nbytes
    return Summary(
        file=header.path.name,
        purpose=found.name,
        architecture=header.architecture,
        known=rules is not None and rules.known,
        name=_text(header, "general.name"),
        version=header.version,
        byte_order="little" if header.order == "<" else "big",
        shards=len(header.paths),
        layers=n_layers,
        tail=rules.n_tail(header) if rules else 0,
        parameters=count,
        parameters_in_layers=sum(r.parameters for r in rows),
        bytes=header.n_bytes,
        bits_per_weight=header.n_bytes * 8 / count if count else 0.0,
        types=dict(types.most_common()),
        embedding=header.number("{arch}.embedding_length"),
        vocabulary=_vocabulary(header),
        context_trained=trained,
        context=n_ctx if rules else 0,
        kv_bytes=_cache_bytes(header, kinds, n_ctx) if rules else 0,
        rows=rows,
    )


def _text(header: Header, key: str) -> str | None:
    found = header.metadata.get(key)
    return None if found is None else found.preview(LONGEST)


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
    """Keys and values as llama.cpp keeps them: heads × (key + value length) × tokens, a layer.

    A window keeps its tokens and a batch of new ones. Layers that read the keys and values of
    others, recurrent layers and the MTP tail have no cache here; latent attention keeps keys only.
    """
    count = header.n_layers
    heads = header.numbers("{arch}.attention.head_count", count) or [1] * count
    kv_heads = header.numbers("{arch}.attention.head_count_kv", count) or heads
    full, narrow = _widths(header, heads, ""), _widths(header, heads, "_swa")
    total = 0
    for layer, kind in enumerate(kinds):
        if kind.mtp or kind.shared_kv or kind.attention in ("recurrent", "none"):
            continue
        tokens = min(n_ctx, padded(kind.window + BATCH, CELLS)) if kind.window else n_ctx
        total += kv_heads[layer] * (narrow if kind.window else full) * tokens * CACHE_ELEMENT
    return total


def _widths(header: Header, heads: Sequence[int], suffix: str) -> int:
    """Length of a key and a value together, of the windowed layers with `suffix` `_swa`."""
    width, most = header.number("{arch}.embedding_length") or 0, max(heads, default=0)
    total = 0
    for part in ("key", "value"):
        if part == "value" and header.number("{arch}.attention.value_length_mla"):
            continue  # the values are computed from the keys
        name = "{arch}.attention." + part + "_length"
        given = header.number(name + suffix) or header.number(name)
        total += given if given is not None else width // most if most else 0
    return total
