"""Add the updates of a LoRA adapter to the finished stack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..errors import PlanError
from .edits import Lora, Mask
from .types import Plan


def merge_lora(
    plan: Plan, adapter: str, checksum: str, scale: float = 1.0, layers: Sequence[int] | None = None
) -> Plan:
    """Merge an adapter into the weights.

    Args:
        adapter: its file.
        checksum: of the file.
        scale: the updates are multiplied by it, besides the adapter's own factor.
        layers: for each layer of the stack the one whose updates it takes.

    Raises:
        PlanError: an impossible scale or list, or a prune before it.
    """
    if not math.isfinite(scale) or scale == 0:
        raise PlanError("lora: impossible scale", expected="a number other than 0", found=scale)
    if layers is not None and len(layers) != plan.n_layers:
        raise PlanError(
            "lora: one layer of the adapter is needed for each of the model",
            expected=plan.n_layers,
            found=len(layers),
        )
    if any(isinstance(edit, Mask) for edit in plan.edits):
        raise PlanError("lora: an update would fill the zeros of a prune", hint="Prune afterwards.")
    edit = Lora(adapter, checksum, scale, None if layers is None else tuple(layers))
    return replace(plan, edits=(*plan.edits, edit))
