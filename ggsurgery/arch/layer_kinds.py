"""Layer kinds of a header, as llama.cpp's loader determines them."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import FormatError
from ..ggufio.types import Header
from . import properties
from .rulefile import RuleFile
from .types import LayerKind


def n_tail(header: Header) -> int:
    """Number of layers behind the trunk (`nextn_predict_layers`), which `block_count` includes.

    Raises:
        FormatError: the number exceeds the layer count.
    """
    count = properties.get(header, "nextn_predict_layers") or 0
    if not isinstance(count, int) or count < 0 or count > header.n_layers:
        raise FormatError(
            "impossible number of MTP layers",
            file=header.path,
            tensor=properties.full_key(header, "nextn_predict_layers"),
            expected=f"0 to {header.n_layers}",
            found=count,
        )
    return count


def kv_start(rules: RuleFile, header: Header) -> int | None:
    """The first layer that attends over keys and values of earlier ones; None if there is none."""
    rule = rules.shared_kv
    if rule is None:
        return None
    if rule.key:
        return header.n_layers - properties.count(header, rule.key)
    return rule.first


def ffn_of(suffixes: Iterable[str]) -> str:
    """`moe`, `dense` or `none`, from the names of a layer's tensors."""
    names = [s for s in suffixes if s.startswith("ffn_") and "norm" not in s]
    if any(s.startswith("ffn_gate_inp") or "_exps" in s for s in names):
        return "moe"
    return "dense" if names else "none"


def has_attention(suffixes: Iterable[str]) -> bool:
    """Whether a layer has attention weights (not only the norm before them)."""
    return any(s.startswith("attn_") and "norm" not in s for s in suffixes)


def kinds(rules: RuleFile, header: Header) -> tuple[LayerKind, ...]:
    """The kind of each layer, trunk first, then the tail."""
    n, tail = header.n_layers, n_tail(header)
    n_trunk = n - tail
    recurrent = [False] * n
    if rules.recurrent:
        recurrent = properties.recurrents(rules.recurrent, header, n, n_trunk)
    size, windowed, shape = 0, [False] * n, "full"
    if rules.window:
        size = properties.window_size(rules.window, header, n_trunk)
        windowed = properties.windows(rules.window, header, n_trunk, recurrent)
        shape = rules.window.kind
    rotates = [True] * n
    if rules.rope:
        rotates = properties.ropes(rules.rope, header, n_trunk, windowed, size > 0)
    moe: list[bool | None] = [None] * n
    if rules.experts:
        moe = properties.experts(rules.experts, header, n, n_trunk)
    if rules.rope and rules.rope.dense_too:
        rotates = [r or m is False for r, m in zip(rotates, moe, strict=True)]
    start = kv_start(rules, header)
    prefixes = [(p.name, properties.prefix(p, header, n)) for p in rules.prefix]
    found = []
    for i in range(n):
        suffixes = header.layer_tensors(i)
        attention = "full" if has_attention(suffixes) else "none"
        if recurrent[i]:
            parallel = rules.recurrent is not None and rules.recurrent.parallel
            attention = "hybrid" if parallel else "recurrent"
        elif windowed[i]:
            attention = shape
        extra = [(name, values[i]) for name, values in prefixes if values[i] is not None]
        if rules.depth_ratio and recurrent[i]:
            extra.append((rules.depth_ratio, round(i / max(1, n_trunk - 1), 4)))
        ffn = ffn_of(suffixes)
        if moe[i] is not None and ffn != "none":
            ffn = "moe" if moe[i] else "dense"
        found.append(
            LayerKind(
                attention=attention,
                window=size if attention == shape and windowed[i] else None,
                ffn=ffn,
                rope="rope" if rotates[i] else "none",
                mtp=i >= n_trunk,
                shared_kv=start is not None and i >= start,
                extra=tuple(extra),
            )
        )
    return tuple(found)
