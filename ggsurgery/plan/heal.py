"""Where a plan departs from its model, and the step that corrects the layers there.

The arrays that healing fitted are too large for a header; the step names them by key and
checksum, and says how they were fitted (see `ggsurgery.compensate`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import PlanError
from .edits import Add, Damp
from .ops import check_layers, delete
from .text import format_layers
from .types import Block, BlockRef, Plan, Take, main_reference, references, with_edit

#: The tensors that a correction can change: they write to the residual stream.
PROJECTION = "ffn_down.weight"
ATTENTION = "attn_output.weight"
EXPERTS = "ffn_down_exps.weight"

_TENSORS = "|".join(map(re.escape, (PROJECTION, ATTENTION, EXPERTS)))
_KEY = re.compile(rf"heal\.blk\.(\d+)\.({_TENSORS})")


@dataclass(frozen=True, slots=True)
class Place:
    """Layer `position` of a plan is the last of those that replace the uncut layers first … last.

    Attributes:
        begin: the first of the layers that replace them; mostly `position` itself.
        seam: whether they are anything else than that one uncut layer as it was.
        removed: the ones that the plan lacks.
    """

    begin: int
    position: int
    first: int
    last: int
    seam: bool
    removed: tuple[int, ...] = ()

    def describe(self) -> str:
        """The uncut layers, and how the plan changed them."""
        if self.removed:
            return f"{format_layers(self.removed)} removed"
        if not self.seam:
            return f"{self.last} kept"
        return f"{format_layers(range(self.first, self.last + 1))} changed"


def places(plan: Plan, n_layers: int) -> tuple[Place, ...]:
    """The layers of a plan after which the state should equal the uncut model's.

    A layer that is followed by an earlier one (a repeat, a move) has no such state.

    Args:
        n_layers: of the uncut model's trunk.

    Example:
        >>> from ggsurgery.plan.ops import delete
        >>> [(p.position, p.last) for p in places(delete(Plan.identity(4), [1]), 4) if p.seam]
        [(0, 1)]
    """
    layers = [main_reference(block).index for block in plan.blocks]
    used = {ref.index for block in plan.blocks for ref in references(block)}
    found: list[Place] = []
    begin = reached = 0
    for position, block in enumerate(plan.blocks):
        following = layers[position + 1] if position + 1 < len(layers) else n_layers
        if following <= reached:
            continue
        same = position == begin and block == Take(BlockRef(0, reached))
        removed = tuple(i for i in range(reached, following) if i not in used)
        seam = not (same and following == reached + 1)
        found.append(Place(begin, position, reached, following - 1, seam, removed))
        begin, reached = position + 1, following
    return tuple(found)


def key_of(number: int, tensor: str) -> str:
    """The name of the array that corrects a tensor of a layer, numbered as before the step."""
    return f"heal.blk.{number}.{tensor}"


def corrected(block: Block, tensor: str, key: str, sha256: str | None = None) -> Block:
    """A layer with the array `key` added to one of its tensors.

    Args:
        sha256: of the array, so that plans with other values have other digests.
    """
    return with_edit(block, Add((tensor,), key, sha256))


def check_cut(layers: Sequence[int], n_layers: int) -> None:
    """Refuse a cut that no layer in front of it can take over.

    Raises:
        PlanError: layer 0 goes, or one does not exist.
    """
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise PlanError(f"layer {layer} does not exist", expected=f"0 to {n_layers - 1}")
    if 0 in layers:
        raise PlanError(
            "a cut of layer 0 cannot be healed: no layer in front of it takes over",
            hint="Leave layer 0; `ggsurgery delete` cuts it without healing.",
        )


def heal(plan: Plan, fit: Mapping[str, Any], layer: Sequence[int] = ()) -> Plan:
    """Cut layers, and correct those that are kept as a fit found.

    Args:
        layer: those to cut, as numbered in the plan; none of a plan that is cut already.
        fit: how the corrections were found. `arrays` holds the sha256 of each array by key;
            `scales` holds by how much the state behind a layer grows, for the method scale.

    Raises:
        PlanError: an impossible cut, a cut without a correction, or a correction of a layer
            that is not there.
    """
    check_layers(plan, layer)
    check_cut(layer, len(plan.blocks))
    sums, scales = fit.get("arrays"), fit.get("scales")
    if isinstance(scales, Mapping) and scales:
        blocks = _scaled(plan, scales, layer)
    else:
        blocks = _added(plan, sums if isinstance(sums, Mapping) else {}, layer)
    changed = replace(plan, blocks=blocks)
    return delete(changed, layer) if layer else changed


def scaled_behind(plan: Plan, scales: Mapping[int, float]) -> Plan:
    """What the layers behind some others write is divided, so that their input counts more.

    The final norm removes the length, so the effect equals multiplying the state before it.

    Args:
        scales: by the number of the layer in front: how many times the state behind it grows.
    """
    blocks, factor = list(plan.blocks), 1.0
    for number, block in enumerate(plan.blocks):
        if factor != 1.0:
            blocks[number] = with_edit(block, Damp(1.0 / factor))
        factor *= scales.get(number, 1.0)
    return replace(plan, blocks=tuple(blocks))


def _scaled(plan: Plan, scales: Mapping[Any, Any], layer: Sequence[int]) -> tuple[Block, ...]:
    try:
        factors = {int(number): float(factor) for number, factor in scales.items()}
    except (TypeError, ValueError):
        raise PlanError("heal: scales are not numbers", found=repr(scales)[:80]) from None
    for number, factor in factors.items():
        if not 0 <= number < len(plan.blocks) or number in layer or not factor > 0:
            raise PlanError(
                "heal: impossible scale",
                expected="a kept layer and a factor above 0",
                found=f"{number}: {factor}",
            )
    return scaled_behind(plan, factors).blocks


def _added(plan: Plan, sums: Mapping[Any, Any], layer: Sequence[int]) -> tuple[Block, ...]:
    blocks, gone = list(plan.blocks), set(layer)
    for key in sorted(sums):
        match = _KEY.fullmatch(str(key))
        number = int(match[1]) if match else -1
        if match is None or number in gone or not 0 <= number < len(blocks):
            raise PlanError(
                "heal: a correction of a layer that is not kept",
                expected="heal.blk.N.TENSOR, N a kept layer",
                found=key,
            )
        if not isinstance(sums[key], str):
            raise PlanError(f"heal: {key} has no sha256", found=repr(sums[key])[:80])
        blocks[number] = corrected(blocks[number], match[2], str(key), sums[key])
    carriers = {max(i for i in range(n) if i not in gone) for n in gone}
    for number in sorted(carriers):
        if key_of(number, PROJECTION) not in sums:
            raise PlanError(
                "heal: a correction is not named",
                expected=f"fit: arrays: {key_of(number, PROJECTION)}: its sha256",
                found="none",
                hint="`ggsurgery heal` fits and writes such a recipe.",
            )
    if not sums:
        raise PlanError("heal: no correction is named", expected="fit: arrays: sha256 by key")
    return tuple(blocks)
