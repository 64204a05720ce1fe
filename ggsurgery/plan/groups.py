"""Keep some key/value groups of the layers' attention: the step of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import PlanError
from .channels import by_layer
from .edits import KeepGroups
from .text import parse_layers
from .types import Blend, Block, Edited, Plan, Take, with_edit


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
    match block:
        case Take():
            return False
        case Blend(parents):
            return any(map(changes_groups, parents))
        case Edited(inner, edits):
            return changes_groups(inner) or any(isinstance(e, KeepGroups) for e in edits)


def kept_groups(block: Block, n_groups: int) -> int:
    """How many groups the edits of a block leave.

    Raises:
        PlanError: an edit is of another number of groups, or the parents of a blend differ.
    """
    match block:
        case Take():
            return n_groups
        case Blend(parents):
            if any(map(changes_groups, parents)):
                raise PlanError(
                    "layers without some key/value groups cannot be blended",
                    hint="Blend the layers first, then prune the result.",
                )
            return n_groups
        case Edited(inner, edits):
            count = kept_groups(inner, n_groups)
            for edit in edits:
                if isinstance(edit, KeepGroups):
                    if edit.of != count:
                        raise PlanError(
                            "another number of key/value groups", expected=count, found=edit.of
                        )
                    count = len(edit.groups)
            return count


def groups_of_layers(value: Any) -> dict[int, tuple[int, ...]]:
    """The groups of each layer, from a mapping such as `{"0-29": "0,2"}`.

    Raises:
        PlanError: not such a mapping, or a layer that occurs twice.
    """
    return by_layer(value, parse_layers, "groups", '{"0-29": "0,2"}')
