"""Files from which another program removed layers without updating the metadata.

The header before the removal is reconstructed: the old layer count, the arrays at their old length,
the tensors at their old numbers. Deleting the layers from *that* header gives the metadata that the
removal should have written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import FormatError, PlanError
from ..ggufio.types import Header, Value
from ..plan.recipe import Recipe
from ..plan.types import BlockRef, Plan, Take, main_reference
from . import arrays, properties
from .layer_kinds import n_tail


def unpruned(header: Header, removed: Sequence[int]) -> tuple[Header, Plan]:
    """The header before the removal, and the plan that removes the layers again.

    Args:
        removed: numbers of the removed layers in the original model.

    Raises:
        PlanError: a number cannot have been a layer.
        FormatError: an array fits neither the old nor the new layer count.
    """
    gone = sorted(set(removed))
    n_old = header.n_layers + len(gone)
    if not gone or gone[0] < 0 or gone[-1] >= n_old:
        raise PlanError(
            "cannot have been the removed layers",
            file=header.path,
            expected=f"numbers from 0 to {n_old - 1}",
            found=", ".join(map(str, gone)) or "none",
            hint="Give the layer numbers of the original model.",
        )
    order = [i for i in range(n_old) if i not in gone]
    old = _renumbered(header, order, n_old, _stretched)
    blocks = tuple(Take(BlockRef(0, i)) for i in order)
    split = len(blocks) - n_tail(header)
    return old, Plan(blocks[:split], blocks[split:])


def original_of(header: Header, document: Mapping[str, Any]) -> tuple[Header, list[int]]:
    """The header before this file's recipe, and the source layer of each layer.

    Arrays are mapped back to the old layers. A pattern that only the counts imply then follows the
    old count, which reveals a recipe that moved layers without it.

    Raises:
        PlanError: no original layer count leads to this file's count by the recipe.
    """
    recipe = Recipe.from_json(dict(document), header.path)
    tail = n_tail(header)
    for n_old in range(header.n_layers, header.n_layers + 257):
        try:
            plan = recipe.apply(Plan.identity(n_old, tail))
        except PlanError:
            continue
        if plan.n_layers == header.n_layers and plan.n_sources == 1 and not plan.computes:
            order = [main_reference(b).index for b in plan.stack]
            return _renumbered(header, order, n_old, _taken_back), order
    raise PlanError("the recipe leads to another number of layers", file=header.path)


def _renumbered(
    header: Header, order: Sequence[int], n_old: int, array: Callable[..., Value]
) -> Header:
    key = properties.full_key(header, "block_count")
    metadata = dict(header.metadata) | {key: properties.number(header, "block_count", n_old)}
    for name, value in arrays.layer_arrays(header).items():
        metadata[name] = array(header, name, value, order, n_old)
    tensors = [t for t in header.tensors if t.layer is None]
    first = {old: new for new, old in reversed(list(enumerate(order)))}
    for old, new in sorted(first.items()):
        for suffix, tensor in header.layer_tensors(new).items():
            tensors.append(replace(tensor, name=f"blk.{old}.{suffix}"))
    return replace(header, metadata=metadata, tensors=tuple(tensors))


def _stretched(header: Header, name: str, value: Value, order: Sequence[int], n_old: int) -> Value:
    """An array at its old length: unchanged, or with entries restored for removed layers."""
    tail = n_tail(header)
    if len(value) in (n_old, n_old - tail, arrays.PADDED):
        return value
    found = value.value
    if len(found) != header.n_layers:
        raise FormatError(
            "array fits neither the old nor the new layer count",
            file=header.path,
            tensor=name,
            expected=f"{n_old} or {header.n_layers} entries",
            found=len(found),
            hint="Name all layers that were removed.",
        )
    return _taken_back(header, name, value, order, n_old)


def _taken_back(header: Header, name: str, value: Value, order: Sequence[int], n_old: int) -> Value:
    """An array of the current layers, at their old numbers; an array of the trunk stays one."""
    found = value.value[: header.n_layers]
    whole = [found[0]] * n_old
    for old, entry in zip(order, found, strict=False):
        whole[old] = entry
    whole = whole[: n_old - (header.n_layers - len(found))]
    return Value.of(whole, value.type, value.item_type, value.order)
