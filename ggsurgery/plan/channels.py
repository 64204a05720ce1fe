"""Keep some inner channels of the layers' feed-forward networks: the step, and how it is written.

A list of channels is text: `0-11,13` as layers are written, or, where that is shorter, a mask:
`mask:` and the bits of all channels in base64, the first channel in the highest bit.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import PlanError
from .edits import KeepChannels
from .text import format_layers, parse_layers
from .types import Blend, Block, Edited, Plan, Take, has_edit, with_edit

_MASK = "mask:"
#: Channels of a layer at most; llama.cpp's tensors have no such bound.
_MOST = 1 << 20


def keep_channels(plan: Plan, channels: Mapping[int, Sequence[int]]) -> Plan:
    """Keep these channels of the layers named, numbered as in the stack, tail included.

    Raises:
        PlanError: a layer does not exist.
    """
    stack = list(plan.stack)
    for layer, kept in channels.items():
        if not 0 <= layer < len(stack):
            raise PlanError(f"layer {layer} does not exist", expected=f"0 to {len(stack) - 1}")
        stack[layer] = with_edit(stack[layer], KeepChannels(tuple(kept)))
    n_blocks = len(plan.blocks)
    return replace(plan, blocks=tuple(stack[:n_blocks]), tail=tuple(stack[n_blocks:]))


def changes_channels(block: Block) -> bool:
    """Whether an edit of a block, or of a parent of it, deletes channels."""
    return has_edit(block, KeepChannels)


def kept_channels(block: Block, n_channels: int) -> tuple[int, ...]:
    """The channels that the edits of a block leave, numbered as in its source.

    Raises:
        PlanError: an edit names a channel that the layer does not have, or the parents of a
            blend keep unlike channels.
    """
    match block:
        case Take():
            return tuple(range(n_channels))
        case Blend(parents):
            first, *others = (kept_channels(p, n_channels) for p in parents)
            if any(other != first for other in others):
                raise PlanError(
                    "layers that keep unlike channels cannot be blended",
                    hint="Blend the layers first, then prune the result.",
                )
            return first
        case Edited(inner, edits):
            kept = kept_channels(inner, n_channels)
            for edit in edits:
                if isinstance(edit, KeepChannels):
                    wrong = [c for c in edit.channels if c >= len(kept)]
                    if wrong:
                        raise PlanError(
                            f"channel {wrong[0]} does not exist", expected=f"0 to {len(kept) - 1}"
                        )
                    kept = tuple(kept[c] for c in edit.channels)
            return kept


def format_channels(channels: Sequence[int]) -> str:
    """The shorter of the two ways to write channels.

    Example:
        >>> format_channels([0, 1, 2, 5])
        '0-2,5'
        >>> format_channels(range(0, 96, 2))
        'mask:qqqqqqqqqqqqqqqq'
    """
    text = format_layers(channels)
    if list(channels) != sorted(channels):
        return text
    size = max(channels) // 8 + 1
    bits = sum(1 << (8 * size - 1 - c) for c in channels)
    mask = _MASK + base64.b64encode(bits.to_bytes(size, "big")).decode()
    return min(text, mask, key=len)


def parse_channels(text: Any) -> tuple[int, ...]:
    """The channels that `format_channels` wrote, or a person did.

    Raises:
        PlanError: neither a list nor a mask, or an empty one.
    """
    if isinstance(text, str) and text.startswith(_MASK):
        try:
            data = base64.b64decode(text.removeprefix(_MASK), validate=True)
        except (binascii.Error, ValueError):
            raise PlanError(
                "not a mask of channels", expected="mask: and base64", found=repr(text[:40])
            ) from None
        found = tuple(8 * i + b for i, byte in enumerate(data) for b in range(8) if byte << b & 128)
    else:
        found = parse_layers(text, longest=_MOST)
    if not found:
        raise PlanError("no channel would be left", expected="at least one")
    return found


def channels_by_layer(value: Any) -> dict[int, tuple[int, ...]]:
    """The channels of each layer, from a mapping such as `{"0-29": "0-1023"}`.

    Raises:
        PlanError: not such a mapping, or a layer that occurs twice.
    """
    return by_layer(value, parse_channels, "channels", '{"0-29": "0-1023"}')


def by_layer(
    value: Any, parse: Callable[[Any], tuple[int, ...]], what: str, example: str
) -> dict[int, tuple[int, ...]]:
    """A list of numbers for each layer; the keys may be lists of layers.

    Raises:
        PlanError: not such a mapping, a list that is empty or names a number twice, or a layer
            that occurs twice.
    """
    if not isinstance(value, Mapping) or not value:
        raise PlanError(
            f"not a mapping from layers to {what}",
            expected=f"such as {example}",
            found=repr(value)[:80],
        )
    found: dict[int, tuple[int, ...]] = {}
    for key, text in value.items():
        try:
            layers, numbers = parse_layers(key), parse(text)
            if len(set(numbers)) != len(numbers):
                seen: set[int] = set()
                twice = next(c for c in numbers if c in seen or seen.add(c))  # type: ignore[func-returns-value]
                raise PlanError(f"{what.removesuffix('s')} {twice} is named twice")
        except PlanError as error:
            raise PlanError(f"{what} of layer {key}: {error}") from None
        for layer in layers:
            if layer in found:
                raise PlanError(f"layer {layer} is named twice")
            found[layer] = numbers
    return found
