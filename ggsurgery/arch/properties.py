"""Properties of a layer that llama.cpp derives from the layer's position.

Each function reads one property of all layers of a header, as llama.cpp's loader would;
the `write_…` functions return the keys that state the wanted values, if a header can.
Trunk layers come first, then the tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ArchitectureError, FormatError
from ..ggufio.constants import GGUFValueType
from ..ggufio.types import Header, Value
from .rulefile import ExpertRule, PrefixRule, RecurrentRule, RopeRule, WindowRule

Changes = dict[str, Value]


def full_key(header: Header, key: str) -> str:
    """A key with the architecture prefix, as in the file."""
    return f"{header.architecture}.{key}"


def get(header: Header, key: str, default: Any = None) -> Any:
    """The value of `{arch}.key`."""
    return header.get(full_key(header, key), default)


def count(header: Header, key: str, default: int = 0) -> int:
    """A non-negative integer; `default` if the key is missing.

    Raises:
        FormatError: the value is something else.
    """
    found = get(header, key)
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 31:
        raise FormatError(
            "expected a whole number",
            file=header.path,
            tensor=full_key(header, key),
            found=str(found)[:60],
        )
    return found


def bools(header: Header, values: Sequence[bool]) -> Value:
    """A boolean array in the header's byte order."""
    return Value.of(list(values), GGUFValueType.ARRAY, GGUFValueType.BOOL, header.order)


def number(header: Header, key: str, value: int) -> Value:
    """An integer with the type that the key has in the header, else u32."""
    old = header.metadata.get(full_key(header, key))
    scalar = old is not None and old.type not in (GGUFValueType.ARRAY, GGUFValueType.STRING)
    return Value.of(value, old.type if old and scalar else GGUFValueType.UINT32, order=header.order)


def window_size(rule: WindowRule, header: Header, n_trunk: int) -> int:
    """Tokens of the window, 0 when this header has no windowed layers."""
    size = count(header, rule.size, -1)
    if rule.only_layers and n_trunk != rule.only_layers:
        return 0
    if rule.active == "size" and size < 1:
        return 0
    if rule.active == "unless_zero" and size == 0:
        return 0
    return rule.fixed or (size if size > 0 else rule.default)


def windows(
    rule: WindowRule, header: Header, n_trunk: int, recurrent: Sequence[bool]
) -> list[bool]:
    """Whether each layer is windowed."""
    n = len(recurrent)
    if not window_size(rule, header, n_trunk):
        return [False] * n
    if rule.pattern == "all":
        return [True] * n_trunk + [rule.tail == "window"] * (n - n_trunk)
    if rule.pattern == "not_recurrent":
        return [not r for r in recurrent]
    found = get(header, rule.pattern_key)
    if isinstance(found, list):
        return [bool(v) for v in found[:n]] + [False] * max(0, n - len(found))
    period = count(header, rule.pattern_key, rule.period)
    return [i < n_trunk and _in_window(i, period, rule.first) for i in range(n)]


def _in_window(layer: int, period: int, first: str) -> bool:
    if period == 0:
        return True
    place = layer % period
    return place != 0 if first == "full" else place < period - 1


def write_windows(rule: WindowRule, header: Header, wanted: Sequence[bool]) -> Changes:
    """An explicit array under the pattern's key; empty if the loader reads none.

    llama.cpp aborts on a model that has windows but no windowed layer
    (`GGML_ASSERT(hparams.is_swa_any())`): the window's size becomes 0 then.

    Raises:
        ArchitectureError: no windowed layer is left, and the loader requires one.
    """
    if not any(wanted):
        if rule.active == "size":
            return {full_key(header, rule.size): number(header, rule.size, 0)}
        raise ArchitectureError(
            f"llama.cpp does not run {header.architecture} without any windowed layer",
            file=header.path,
            hint="Keep at least one; `ggsurgery inspect` shows which they are.",
        )
    if rule.pattern in ("all", "not_recurrent"):
        return {}
    return {full_key(header, rule.pattern_key): bools(header, wanted)}


def recurrents(rule: RecurrentRule, header: Header, n: int, n_trunk: int) -> list[bool]:
    """Whether each layer is recurrent."""
    if rule.pattern == "all":
        return [True] * n
    if rule.pattern == "array_or_interval":
        found = get(header, rule.key)
        if isinstance(found, list):
            return [bool(v) for v in found[:n]] + [False] * max(0, n - len(found))
        if found is not None:
            return [bool(found)] * n
        interval = count(header, rule.interval_key, rule.interval) or 1
        return [i < n_trunk and (i + 1) % interval != 0 for i in range(n)]
    heads = per_layer(header, "attention.head_count_kv", n)
    if heads is None:
        heads = per_layer(header, "attention.head_count", n) or [0] * n
    if rule.pattern == "no_kv_heads":
        return [i < n_trunk and not h for i, h in enumerate(heads)]
    widths = per_layer(header, "feed_forward_length", n) or [0] * n
    return [
        i < n_trunk and not h and not f for i, (h, f) in enumerate(zip(heads, widths, strict=True))
    ]


def write_recurrents(rule: RecurrentRule, header: Header, wanted: Sequence[bool]) -> Changes:
    """An explicit array; the other patterns are read from arrays that are gathered anyway."""
    if rule.pattern != "array_or_interval":
        return {}
    return {full_key(header, rule.key): bools(header, wanted)}


def per_layer(header: Header, key: str, n: int) -> list[Any] | None:
    """One value per layer for a key that may be a scalar or an array; None if the key is missing.

    An array that is too short is padded with zeros, as in llama.cpp's loader.
    """
    found = get(header, key)
    if found is None:
        return None
    values = list(found[:n]) + [0] * max(0, n - len(found)) if isinstance(found, list) else [found]
    if any(not isinstance(v, int | float) for v in values):
        raise FormatError(
            "expected numbers",
            file=header.path,
            tensor=full_key(header, key),
            found=str(found)[:60],
        )
    return values if isinstance(found, list) else values * n


def experts(rule: ExpertRule, header: Header, n: int, n_trunk: int) -> list[bool | None]:
    """Whether each layer is a mixture of experts; None if the tensors decide."""
    if not get(header, "expert_count"):
        return [False] * n
    lead = count(header, rule.leading, rule.lead_default) if rule.leading else 0
    step = count(header, rule.step) if rule.step else 1
    found: list[bool | None] = [
        i >= lead and step > 0 and (i + 1) % step == 0 for i in range(n_trunk)
    ]
    tail = {"moe": True, "dense": False, "tensors": None}[rule.tail]
    return found + [tail] * (n - n_trunk)


def write_experts(rule: ExpertRule, header: Header, wanted: Sequence[bool]) -> Changes:
    """The recounted number of leading dense layers."""
    if not rule.leading or not get(header, "expert_count"):
        return {}
    lead = next((i for i, moe in enumerate(wanted) if moe), len(wanted))
    key = full_key(header, rule.leading)
    if lead == rule.lead_default and key not in header.metadata:
        return {}
    return {key: number(header, rule.leading, lead)}


def ropes(
    rule: RopeRule, header: Header, n_trunk: int, windowed: Sequence[bool], active: bool
) -> list[bool]:
    """Whether each layer rotates positions; `active`: the model has windows at all."""
    n = len(windowed)
    if rule.pattern == "window_only":
        return [w or not active for w in windowed]
    if rule.pattern == "array":
        found = per_layer(header, rule.pattern_key, n)
        return [True] * n if found is None else [bool(v) for v in found]
    step = rule.step
    if rule.without_window != "step" and not active:
        if rule.without_window == "all":
            return [True] * n
        step = n_trunk
    if rule.equal_is_all and step == n_trunk:
        return [True] * n
    return [(i + rule.offset) % step != 0 for i in range(n)]


def write_ropes(rule: RopeRule, header: Header, wanted: Sequence[bool]) -> Changes:
    """The explicit array, for the loaders that read one."""
    if rule.pattern != "array":
        return {}
    values = [int(w) for w in wanted]
    return {
        full_key(header, rule.pattern_key): Value.of(
            values, GGUFValueType.ARRAY, GGUFValueType.UINT32, header.order
        )
    }


def prefix(rule: PrefixRule, header: Header, n: int) -> list[Any]:
    """The property of the first layers: True, or their number where each has its own role."""
    first = count(header, rule.key) if rule.key else rule.count
    return [(i if rule.numbered else True) if i < first else None for i in range(n)]


def write_prefix(rule: PrefixRule, header: Header, wanted: Sequence[Any]) -> Changes:
    """The recounted number, if a key holds it."""
    if not rule.key or full_key(header, rule.key) not in header.metadata:
        return {}
    first = next((i for i, v in enumerate(wanted) if v is None), len(wanted))
    return {full_key(header, rule.key): number(header, rule.key, first)}
