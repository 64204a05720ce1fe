"""Add to the tensors of the layers what training changed: the step that distillation writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import PlanError
from .edits import Add
from .types import Block, Edited, Plan

_KEY = re.compile(r"distil\.blk\.(\d{1,9})\.(.+)", re.DOTALL)


def key_of(tensor: str) -> str:
    """The name of the array that is added to a tensor.

    Example:
        >>> key_of("blk.3.ffn_up.weight")
        'distil.blk.3.ffn_up.weight'
    """
    return f"distil.{tensor}"


def distil(plan: Plan, fit: Mapping[str, Any]) -> Plan:
    """Add arrays to tensors of the layers.

    Args:
        fit: how the arrays were found; `arrays` holds their sha256 by key.

    Raises:
        PlanError: no array is named, or one for a layer that is not there.
    """
    sums = fit.get("arrays")
    if not isinstance(sums, Mapping) or not sums:
        raise PlanError("distil: no array is named", expected="fit: arrays: sha256 by key")
    edits: dict[int, list[Add]] = {}
    # A weight takes up its separate scale first: the tensors beside it are changed after that.
    for key in sorted(sums, key=lambda key: (not str(key).endswith(".weight"), str(key))):
        match = _KEY.fullmatch(str(key))
        number = int(match[1]) if match else -1
        if match is None or not 0 <= number < len(plan.blocks) or not isinstance(sums[key], str):
            raise PlanError(
                "distil: impossible array",
                expected=f"distil.blk.N.TENSOR with its sha256, N below {len(plan.blocks)}",
                found=f"{key}: {sums[key]!r}"[:120],
            )
        edits.setdefault(number, []).append(Add((match[2],), str(key), sums[key]))
    blocks: list[Block] = list(plan.blocks)
    for number, added in edits.items():
        blocks[number] = Edited(blocks[number], tuple(added))
    return replace(plan, blocks=tuple(blocks))
