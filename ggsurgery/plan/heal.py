"""Cut layers and change the layer in front of each cut: the step that healing writes.

The arrays that healing fitted are too large for a header; the step names them by key and
checksum, and says how they were fitted (see `ggsurgery.compensate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import PlanError
from .edits import Add
from .ops import check_layers, delete
from .types import Edited, Plan

#: The tensor that takes over what the cut layers did.
PROJECTION = "ffn_down.weight"


@dataclass(frozen=True, slots=True)
class Cut:
    """Layers first … last go; layer first − 1 takes over."""

    first: int
    last: int

    @property
    def carrier(self) -> int:
        return self.first - 1

    @property
    def key(self) -> str:
        """The name of the array that corrects the carrier."""
        return f"heal.blk.{self.carrier}.{PROJECTION}"

    def __len__(self) -> int:
        return self.last - self.first + 1


def cuts_of(layers: Sequence[int], n_layers: int) -> tuple[Cut, ...]:
    """Runs of neighbouring layers.

    Raises:
        PlanError: layer 0 goes (nothing in front of it can take over), or one does not exist.

    Example:
        >>> cuts_of([12, 13, 20], 30)
        (Cut(first=12, last=13), Cut(first=20, last=20))
    """
    cuts: list[Cut] = []
    for layer in sorted(set(layers)):
        if not 0 <= layer < n_layers:
            raise PlanError(f"layer {layer} does not exist", expected=f"0 to {n_layers - 1}")
        if layer == 0:
            raise PlanError(
                "a cut of layer 0 cannot be healed: no layer in front of it takes over",
                hint="Leave layer 0; `ggsurgery delete` cuts it without healing.",
            )
        if cuts and cuts[-1].last == layer - 1:
            cuts[-1] = replace(cuts[-1], last=layer)
        else:
            cuts.append(Cut(layer, layer))
    return tuple(cuts)


def mend(plan: Plan, cut: Cut, removed: int = 0, sha256: str | None = None) -> Plan:
    """Cut, and add the array `cut.key` to the carrier's projection.

    Args:
        cut: numbered as before the `removed` layers in front of it went.
        sha256: of the array, so that plans with other values have other digests.
    """
    place = cut.carrier - removed
    plan = delete(plan, tuple(range(cut.first - removed, cut.last - removed + 1)))
    edit = Add((PROJECTION,), cut.key, sha256)
    block = plan.blocks[place]
    if isinstance(block, Edited):
        changed = Edited(block.block, (*block.edits, edit))
    else:
        changed = Edited(block, (edit,))
    return replace(plan, blocks=(*plan.blocks[:place], changed, *plan.blocks[place + 1 :]))


def heal(plan: Plan, layer: Sequence[int], fit: Mapping[str, Any]) -> Plan:
    """Cut layers with the corrections that a fit found.

    Args:
        layer: those to cut, as numbered in the plan.
        fit: how the arrays were found; `arrays` holds their sha256 by key.

    Raises:
        PlanError: an impossible cut, or a cut without its array.
    """
    check_layers(plan, layer)
    sums = fit.get("arrays")
    removed = 0
    for cut in cuts_of(layer, len(plan.blocks)):
        if not isinstance(sums, Mapping) or not isinstance(sums.get(cut.key), str):
            raise PlanError(
                "heal: a correction is not named",
                expected=f"fit: arrays: {cut.key}: its sha256",
                found="none",
                hint="`ggsurgery.compensate` fits and writes such a recipe.",
            )
        plan = mend(plan, cut, removed, sums[cut.key])
        removed += len(cut)
    return plan
