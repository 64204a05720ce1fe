"""Keep some key/value groups of the layers' attention: the step of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import PlanError
from .channels import by_layer, changes_channels
from .edits import KeepGroups
from .text import parse_layers
from .types import Blend, Block, Edited, Plan, Take, has_edit, with_edit


def keep_groups(plan: Plan, groups: Mapping[int, Sequence[int]], of: int) -> Plan:
    """Keep these groups of the layers named, numbered as in the stack, tail included.

    Args:
        of: how many groups a layer has before.

    Raises:
        PlanError: a layer or a group does not exist.
    """
    stack = list(plan.stack)
    for layer, kept in groups.items():
        if not 0 <= layer < len(stack):
            raise PlanError(f"layer {layer} does not exist", expected=f"0 to {len(stack) - 1}")
        if wrong := [g for g in kept if g >= of]:
            raise PlanError(f"key/value group {wrong[0]} does not exist", expected=f"0 to {of - 1}")
        stack[layer] = with_edit(stack[layer], KeepGroups(tuple(kept), of))
    n_blocks = len(plan.blocks)
    return replace(plan, blocks=tuple(stack[:n_blocks]), tail=tuple(stack[n_blocks:]))


def changes_groups(block: Block) -> bool:
    """Whether an edit of a block, or of a parent of it, removes key/value groups."""
    return has_edit(block, KeepGroups)


def is_narrower(block: Block) -> bool:
    """Whether matrices of a block lose columns: channels or heads."""
    return changes_channels(block) or changes_groups(block)


def kept_groups(block: Block, n_groups: int) -> tuple[int, ...]:
    """The groups that the edits of a block leave, numbered as in its source.

    Raises:
        PlanError: an edit is of another number of groups, or the parents of a blend lack some.
    """
    match block:
        case Take():
            return tuple(range(n_groups))
        case Blend(parents):
            if any(map(changes_groups, parents)):
                raise PlanError(
                    "layers without some key/value groups cannot be blended",
                    hint="Blend the layers first, then prune the result.",
                )
            return tuple(range(n_groups))
        case Edited(inner, edits):
            kept = kept_groups(inner, n_groups)
            for edit in edits:
                if isinstance(edit, KeepGroups):
                    if edit.of != len(kept):
                        raise PlanError(
                            "another number of key/value groups", expected=len(kept), found=edit.of
                        )
                    kept = tuple(kept[g] for g in edit.groups)
            return kept


def kept_columns(block: Block, n_columns: int) -> list[int]:
    """The columns that stay of a matrix whose inputs are the heads, such as `attn_output`."""
    first = _first(block)
    if first is None:
        return list(range(n_columns))
    width = n_columns // first.of
    return [g * width + n for g in kept_groups(block, first.of) for n in range(width)]


def _first(block: Block) -> KeepGroups | None:
    """The edit of a block that removes groups before all others."""
    if not isinstance(block, Edited):
        return None
    own = (edit for edit in block.edits if isinstance(edit, KeepGroups))
    return _first(block.block) or next(own, None)


def groups_of_layers(value: Any) -> dict[int, tuple[int, ...]]:
    """The groups of each layer, from a mapping such as `{"0-29": "0,2"}`.

    Raises:
        PlanError: not such a mapping, or a layer that occurs twice.
    """
    return by_layer(value, parse_layers, "groups", '{"0-29": "0,2"}')
