"""Look for what is wrong with a file: structure, layers, arrays, tokenizer.

Reading a header already refuses what is broken beyond use; here is found what loads but
does not mean what it should, or what llama.cpp would refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..arch import ArchRules, Finding, rules_for
from ..arch.asked import surveyed
from ..arch.check import check
from ..arch.types import Severity
from ..errors import ArchitectureError, FormatError
from ..ggufio.purpose import MODEL, OTHER, VOCABULARY, purpose
from ..ggufio.types import Header
from ..plan.text import format_layers
from .entries import count_findings, entry_type_findings, name_findings, split_findings
from .expected import foreign_tensors, missing_tensors, scale_findings
from .format import format_findings
from .shapes import shape_findings

#: Architectures whose graphs take the number of experts of each layer.
_EXPERTS_BY_LAYER = ("nemotron_h", "nemotron_h_moe")

_SPECIAL = ("bos", "eos", "unknown", "padding", "eot", "eom", "seperator", "mask")

_UNKNOWN_PURPOSE = Finding(
    "warning",
    "general.architecture",
    "names no language model, and no file that goes with one: only the file's form is checked",
)


def verify(header: Header, rules: ArchRules | None = None) -> list[Finding]:
    """Everything found, errors first.

    Args:
        rules: of the header's architecture; looked up where they are not at hand.

    A finding's `severity` is `error` (will not load, or means something else) or `warning`.
    """
    found = [
        *format_findings(header),
        *entry_type_findings(header),
        *name_findings(header),
        *split_findings(header),
    ]
    kind = purpose(header)
    if kind is MODEL:
        try:
            found += _layers(header, rules)
        except FormatError as error:  # an entry that the layers are read by has no usable value
            where = error.tensor or "metadata"
            if where not in [f.where for f in found if f.severity == "error"]:
                found.append(Finding("error", where, str(error), ""))
    elif kind is OTHER:
        found.append(_UNKNOWN_PURPOSE)
    if kind in (MODEL, VOCABULARY):
        found += _tokenizer(header)
    return sorted(found, key=lambda f: f.severity != "error")


def _layers(header: Header, rules: ArchRules | None) -> Iterator[Finding]:
    if not header.architecture:
        yield Finding(
            "error", "general.architecture", "missing", "The file is not a language model."
        )
        return
    rules = rules or rules_for(header, allow_unknown=True)
    certain = rules.known and not rules.rules.refuse
    yield from _blocks(header, header.n_layers, certain=certain)
    if not rules.known:
        yield Finding(
            "warning",
            "general.architecture",
            f"{header.architecture} has no rule file; layer kinds are not checked",
            "Operations that could change a layer's meaning are refused.",
        )
    try:
        yield from foreign_tensors(header, rules.n_tail(header))
        yield from scale_findings(header)
        yield from count_findings(header)
        yield from silent_findings(header)
        yield from shape_findings(header)
        yield from check(rules, header)
        n_tail = rules.n_tail(header)
        yield from missing_tensors(header, rules.kinds(header), n_tail, certain=certain)
    except ArchitectureError as error:
        yield Finding("error", error.tensor or "metadata", str(error), "")


def _blocks(header: Header, count: int, *, certain: bool) -> Iterator[Finding]:
    """Layers without tensors, and tensors behind the last layer.

    Args:
        certain: each counted layer is a `blk.N`; it is not in encoders with a decoder, or
            where layers are run in a loop.
    """
    present = {t.layer for t in header.tensors if t.layer is not None}
    severity: Severity = "error" if certain else "warning"
    counted = count
    if not certain and (not present or header.architecture in surveyed()):
        counted = max(present, default=-1) + 1  # only gaps are odd
    for layer in range(counted):
        if layer not in present:
            yield Finding(
                severity,
                f"blk.{layer}.*",
                "the layer has no tensors",
                "block_count is too large, or tensors were lost.",
            )
    for layer in sorted(n for n in present if n >= count):
        yield Finding(
            severity,
            f"blk.{layer}.*",
            f"behind the last layer: block_count is {count}",
            "block_count is too small; the layer is never run.",
        )


def _tokenizer(header: Header) -> Iterator[Finding]:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    count = len(tokens)
    if header.get("tokenizer.ggml.model") not in (None, "no_vocab", "none"):
        yield from _twice(tokens.value)
    for key in ("token_type", "scores"):
        value = header.metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and len(value) != count:
            yield Finding(
                "error", f"tokenizer.ggml.{key}", f"has {len(value)} entries for {count} tokens", ""
            )
    for name in ("token_embd.weight", "output.weight"):
        tensor = header.by_name.get(name)
        if tensor is not None and len(tensor.shape) > 1 and tensor.shape[1] != count:
            yield Finding(
                "error",
                name,
                f"has {tensor.shape[1]} rows for {count} tokens",
                "Embedding and vocabulary come from different models.",
            )
    size = header.get("{arch}.vocab_size")
    if size is not None and size != count:
        yield Finding(
            "warning",
            f"{header.architecture}.vocab_size",
            f"says {size}, the vocabulary has {count}",
            "",
        )
    for name in _SPECIAL:
        key = f"tokenizer.ggml.{name}_token_id"
        token = header.get(key)
        if token is not None and not (isinstance(token, int) and 0 <= token < count):
            yield Finding("error", key, f"is {token}, the vocabulary has {count} tokens", "")
    if header.get("tokenizer.ggml.model") == "gpt2" and (
        "tokenizer.ggml.merges" not in header.metadata
    ):
        yield Finding(
            "error",
            "tokenizer.ggml.merges",
            "missing in a BPE vocabulary",
            "llama.cpp cannot tokenize without them.",
        )


def _twice(tokens: Sequence[str]) -> Iterator[Finding]:
    """Tokens of more than one id: llama.cpp aborts on them. Empty ones it names by their ids."""
    first: dict[str, int] = {}
    twice: dict[str, list[int]] = {}
    for number, token in enumerate(tokens):
        if first.setdefault(token, number) != number and token:
            twice.setdefault(token, [first[token]]).append(number)
    if twice:
        named = [f"{t!r} (ids {', '.join(map(str, n[:6]))})" for t, n in [*twice.items()][:5]]
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        yield Finding(
            "error",
            "tokenizer.ggml.tokens",
            f"{len(twice)} token(s) occur more than once: {', '.join(named)}{more}",
            "llama.cpp aborts on such a vocabulary. Rename all but one of each.",
        )


def silent_findings(header: Header) -> Iterator[Finding]:
    """Entries against which llama.cpp runs some layers, without a message.

    Read in src/llama-graph.cpp (build_moe_ffn) and src/models/deci.cpp, 0c1e570.
    """
    yield from _experts(header)
    yield from _without_network(header)


def _experts(header: Header) -> Iterator[Finding]:
    """One number of experts is selected in all layers, and each layer's own is summed."""
    arch = header.architecture
    key = f"{arch}.expert_used_count"
    used = header.get(key)
    if not isinstance(used, list) or not used or arch in _EXPERTS_BY_LAYER:
        return
    mixtures = [n for n in range(min(header.n_layers, len(used))) if _is_mixture(header, n)]
    fewer = [n for n in mixtures if used[n] < used[0]]
    more = [n for n in mixtures if used[n] > used[0]]
    for layers, effect in (
        (fewer, "the others that the router selects are left out of the sum"),
        (more, "llama.cpp aborts on the missing ones"),
    ):
        if layers:
            yield Finding(
                "error",
                key,
                f"gives {used[layers[0]]} in layers {format_layers(layers)}, and llama.cpp selects "
                f"{used[0]} in all layers of {arch}, as layer 0 has: {effect}",
                f"`ggsurgery meta set {key} {used[0]} IN OUT` states one number.",
            )


def _is_mixture(header: Header, layer: int) -> bool:
    return "ffn_gate_inp.weight" in header.layer_tensors(layer)


def _without_network(header: Header) -> Iterator[Finding]:
    """deci's graph skips the rest of a layer of width 0, the sum with its attention included."""
    key = f"{header.architecture}.feed_forward_length"
    widths = header.get(key)
    if header.architecture != "deci" or not isinstance(widths, list):
        return
    lost = [
        n
        for n in range(min(header.n_layers, len(widths)))
        if widths[n] == 0 and "attn_output.weight" in header.layer_tensors(n)
    ]
    if lost:
        yield Finding(
            "error",
            key,
            f"is 0 in layers {format_layers(lost)}, which have attention: llama.cpp computes it "
            "and leaves it out",
            "Give the layers a network of 32 zero channels instead.",
        )
