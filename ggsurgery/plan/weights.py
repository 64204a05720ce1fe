"""Add computed values to a tensor: what healing found, named by key and checksum."""

from __future__ import annotations

from dataclasses import replace

from .ops import check_layers
from .types import Edit, Edited, Plan, params


def add_weights(
    plan: Plan, layer: int, key: str, tensor: str = "ffn_down.weight", sha256: str | None = None
) -> Plan:
    """Add the array `key` to a layer's tensor.

    Args:
        tensor: its name without `blk.N.`.
        sha256: checksum of the array, so that plans with other values have other digests.

    Raises:
        PlanError: the layer does not exist.
    """
    check_layers(plan, (layer,))
    edit = Edit("add", (tensor,), params(key=key, sha256=sha256))
    block = plan.blocks[layer]
    if isinstance(block, Edited):
        changed = Edited(block.block, (*block.edits, edit))
    else:
        changed = Edited(block, (edit,))
    return replace(plan, blocks=(*plan.blocks[:layer], changed, *plan.blocks[layer + 1 :]))
