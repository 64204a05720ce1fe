"""Delete experts of mixture layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import PlanError
from .edits import KeepExperts
from .text import parse_layers
from .types import Block, Edited, Plan


def parse_experts(value: Any) -> dict[int, tuple[int, ...]]:
    """The experts of each layer, from a mapping such as `{0: "0-11", 1: "0,2-12"}`.

    Raises:
        PlanError: no such mapping, or a layer whose list is empty or names an expert twice.

    Example:
        >>> parse_experts({"0": "0-2,5"})
        {0: (0, 1, 2, 5)}
    """
    if not isinstance(value, Mapping) or not value:
        raise PlanError(
            "not a mapping from layers to experts",
            expected='such as {0: "0-11", 1: "0,2-12"}',
            found=repr(value)[:80],
        )
    found: dict[int, tuple[int, ...]] = {}
    for key, text in value.items():
        try:
            (layer,) = parse_layers(key)
            experts = parse_layers(text)
        except (PlanError, ValueError) as error:
            raise PlanError(f"experts of layer {key}: {error}") from None
        if len(set(experts)) != len(experts):
            twice = next(e for e in experts if experts.count(e) > 1)
            raise PlanError(f"layer {layer}: expert {twice} is named twice")
        found[layer] = experts
    return found


def keep_experts(plan: Plan, experts: Mapping[int, Sequence[int]]) -> Plan:
    """Keep these experts of the layers named, numbered as in the stack, tail included.

    Raises:
        PlanError: a layer does not exist.
    """
    stack = list(plan.stack)
    for layer, kept in experts.items():
        if not 0 <= layer < len(stack):
            raise PlanError(f"layer {layer} does not exist", expected=f"0 to {len(stack) - 1}")
        stack[layer] = _edited(stack[layer], KeepExperts(tuple(kept)))
    n_blocks = len(plan.blocks)
    return replace(plan, blocks=tuple(stack[:n_blocks]), tail=tuple(stack[n_blocks:]))


def _edited(block: Block, edit: KeepExperts) -> Block:
    if isinstance(block, Edited):
        return Edited(block.block, (*block.edits, edit))
    return Edited(block, (edit,))


def kept_experts(block: Block, n_experts: int) -> tuple[int, ...]:
    """The experts that the edits of a block leave, numbered as in its source.

    Raises:
        PlanError: an edit names an expert that the layer does not have.
    """
    kept = tuple(range(n_experts))
    for edit in expert_edits(block):
        wrong = [e for e in edit.experts if not 0 <= e < len(kept)]
        if wrong:
            raise PlanError(f"expert {wrong[0]} does not exist", expected=f"0 to {len(kept) - 1}")
        kept = tuple(kept[e] for e in edit.experts)
    return kept


def expert_edits(block: Block) -> tuple[KeepExperts, ...]:
    """The edits of a block that delete experts, the first one first."""
    if not isinstance(block, Edited):
        return ()
    own = tuple(e for e in block.edits if isinstance(e, KeepExperts))
    return (*expert_edits(block.block), *own)
