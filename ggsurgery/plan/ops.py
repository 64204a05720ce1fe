"""The operations that rearrange layers and experts: each takes a plan and returns a new one.

Layers are numbered as in the given plan, so operations chain: after
`delete 10`, the layer that was 11 is 10. Only trunk layers can be named; the tail (MTP) follows
automatically or is removed with `drop_tail`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import PlanError
from .edits import Drop, KeepExperts, MergeExperts, Set, TrimVocab, Unset
from .text import format_layers
from .types import Block, BlockRef, Edited, Plan, Take, with_edit

#: llama.cpp's LLAMA_MAX_LAYERS: with one more it ends in an assertion.
MAX_LAYERS = 512


def check_size(plan: Plan, n_blocks: int) -> None:
    """Refuse a trunk that grows beyond what llama.cpp runs.

    Raises:
        PlanError: trunk and tail together would have more than 512 layers.
    """
    count = n_blocks + len(plan.tail)
    if count > MAX_LAYERS and n_blocks > len(plan.blocks):
        raise PlanError(
            "more layers than llama.cpp can run", expected=f"at most {MAX_LAYERS}", found=count
        )


def check_layers(plan: Plan, layers: Sequence[int], *, unique: bool = True) -> None:
    """Refuse layers that the plan does not have.

    Raises:
        PlanError: a layer does not exist, belongs to the tail, or is named twice.
    """
    count = len(plan.blocks)
    for layer in layers:
        if count <= layer < plan.n_layers:
            raise PlanError(
                f"layer {layer} is a tail (MTP) layer, which stays behind the trunk",
                expected=f"0 to {count - 1}",
                hint="Remove the whole tail with `drop_mtp`.",
            )
        if not 0 <= layer < count:
            raise PlanError(f"layer {layer} does not exist", expected=f"0 to {count - 1}")
    if unique and len(set(layers)) != len(layers):
        twice = sorted({n for n in layers if list(layers).count(n) > 1})
        raise PlanError(f"layer {format_layers(twice)} is named twice")


def check_position(plan: Plan, to: int, last: int) -> None:
    """Refuse a place outside the stack.

    Raises:
        PlanError: `to` is not in 0 … `last`.
    """
    if not 0 <= to <= last:
        raise PlanError(f"position {to} does not exist", expected=f"0 to {last}")


def delete(plan: Plan, layer: Sequence[int]) -> Plan:
    """Remove layers.

    Raises:
        PlanError: a layer does not exist, or none would be left.
    """
    check_layers(plan, layer)
    gone = set(layer)
    blocks = tuple(b for i, b in enumerate(plan.blocks) if i not in gone)
    if not blocks:
        raise PlanError(
            "no layer would be left", expected="at least one", found=f"all {len(gone)} deleted"
        )
    return replace(plan, blocks=blocks)


def swap(plan: Plan, first: int, second: int) -> Plan:
    """Exchange two layers.

    Raises:
        PlanError: a layer does not exist, or both are the same.
    """
    check_layers(plan, (first, second))
    blocks = list(plan.blocks)
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return replace(plan, blocks=tuple(blocks))


def move(plan: Plan, layer: Sequence[int], to: int) -> Plan:
    """Take layers out and put them back together, the first of them at position `to`.

    `to` is counted in the new stack: `move 3 to 5` makes the layer number 5.

    Raises:
        PlanError: a layer or the position does not exist.
    """
    check_layers(plan, layer)
    moved = tuple(plan.blocks[i] for i in layer)
    rest = tuple(b for i, b in enumerate(plan.blocks) if i not in set(layer))
    check_position(plan, to, len(rest))
    return replace(plan, blocks=rest[:to] + moved + rest[to:])


def duplicate(plan: Plan, layer: Sequence[int], to: int | None = None, times: int = 1) -> Plan:
    """Insert copies of layers, by default right behind the last of them.

    Args:
        layer: layers to copy, as one group in the given order.
        to: the number that the first copy gets.
        times: number of copies of the whole group.

    Raises:
        PlanError: a layer or the position does not exist, or `times` is below 1.
    """
    check_layers(plan, layer, unique=False)
    if not layer:
        raise PlanError("no layer named to duplicate")
    if times < 1:
        raise PlanError("impossible number of copies", expected="1 or more", found=times)
    place = max(layer) + 1 if to is None else to
    check_position(plan, place, len(plan.blocks))
    check_size(plan, len(plan.blocks) + len(layer) * times)
    copies = tuple(plan.blocks[i] for i in layer) * times
    return insert(plan, copies, place)


def keep(plan: Plan, layers: Sequence[int] | Sequence[tuple[int, int]]) -> Plan:
    """The stack that a list describes: any order, repeats allowed, all others are removed.

    Args:
        layers: numbers, or pairs (input, layer) for a stack over several models.

    Raises:
        PlanError: a layer does not exist, or the list is empty.
    """
    pairs = [item for item in layers if isinstance(item, tuple)]
    if pairs:
        return _stacked(plan, pairs)
    layers = [item for item in layers if isinstance(item, int)]
    check_layers(plan, layers, unique=False)
    if not layers:
        raise PlanError("no layer would be left", expected="at least one")
    check_size(plan, len(layers))
    return replace(plan, blocks=tuple(plan.blocks[i] for i in layers))


def _stacked(plan: Plan, pairs: Sequence[tuple[int, int]]) -> Plan:
    """A stack over several models; everything outside the layers is the first one's."""
    if plan != Plan.identity(plan.n_layers, len(plan.tail)):
        raise PlanError("a stack of several models comes before all other operations")
    check_layers(plan, [layer for source, layer in pairs if source == 0], unique=False)
    check_size(plan, len(pairs))
    blocks = tuple(Take(BlockRef(source, layer)) for source, layer in pairs)
    return replace(plan, blocks=blocks, n_sources=1 + max(source for source, _ in pairs))


def drop_tail(plan: Plan) -> Plan:
    """Remove the layers behind the trunk (MTP / nextn)."""
    return replace(plan, tail=())


def insert(plan: Plan, blocks: tuple[Block, ...], to: int) -> Plan:
    """Put blocks into the trunk so that the first of them gets the number `to`.

    Raises:
        PlanError: the position does not exist.
    """
    check_position(plan, to, len(plan.blocks))
    check_size(plan, len(plan.blocks) + len(blocks))
    return replace(plan, blocks=plan.blocks[:to] + blocks + plan.blocks[to:])


def set_metadata(plan: Plan, key: str, value: Any, type: str | None = None) -> Plan:
    """Set a header entry; `{arch}` in the key is replaced by the architecture."""
    return replace(plan, metadata=(*plan.metadata, Set(key, value, type)))


def unset_metadata(plan: Plan, key: str) -> Plan:
    """Remove a header entry."""
    return replace(plan, metadata=(*plan.metadata, Unset(key)))


def drop_tensor(plan: Plan, tensor: str) -> Plan:
    """Leave tensors out of the output: one by its name, or all that a pattern matches."""
    return replace(plan, edits=(*plan.edits, Drop(tensor)))


def trim_vocab(plan: Plan, map: str, ids: Mapping[str, Any]) -> Plan:
    """Keep the tokens that a file lists.

    Args:
        map: the file.
        ids: `sha256` of the list, and the number of tokens before and after.

    Raises:
        PlanError: a second trim, or no checksum.
    """
    if any(isinstance(e, TrimVocab) for e in plan.edits):
        raise PlanError(
            "the vocabulary is trimmed twice",
            expected="one trim_vocab step a recipe",
            hint="Trim the result of the first recipe.",
        )
    if not isinstance(ids.get("sha256"), str):
        raise PlanError(
            "trim_vocab: the list of tokens has no checksum",
            expected="ids: {sha256: …}",
            found="none",
            hint="`ggsurgery vocab trim` writes the list and such a step.",
        )
    return replace(plan, edits=(*plan.edits, TrimVocab(map, ids["sha256"])))


def keep_experts(plan: Plan, experts: Mapping[int, Sequence[int]]) -> Plan:
    """Keep these experts of the layers named, numbered as in the stack, tail included.

    Raises:
        PlanError: a layer does not exist.
    """
    return _with_experts(plan, {n: KeepExperts(tuple(kept)) for n, kept in experts.items()})


def merge_experts(plan: Plan, experts: Mapping[int, Sequence[Sequence[tuple[int, float]]]]) -> Plan:
    """Make one expert of each group, in the layers named, tail included.

    Args:
        experts: for each layer its groups as (expert, weight) pairs, the one that the router
            keeps first.

    Raises:
        PlanError: a layer does not exist.
    """
    edits = {n: MergeExperts(tuple(map(tuple, groups))) for n, groups in experts.items()}
    return _with_experts(plan, edits)


def _with_experts(plan: Plan, edits: Mapping[int, KeepExperts | MergeExperts]) -> Plan:
    stack = list(plan.stack)
    for layer, edit in edits.items():
        if not 0 <= layer < len(stack):
            raise PlanError(f"layer {layer} does not exist", expected=f"0 to {len(stack) - 1}")
        stack[layer] = with_edit(stack[layer], edit)
    n_blocks = len(plan.blocks)
    return replace(plan, blocks=tuple(stack[:n_blocks]), tail=tuple(stack[n_blocks:]))


def kept_experts(block: Block, n_experts: int) -> tuple[int, ...]:
    """The experts that the edits of a block leave, numbered as in its source.

    Raises:
        PlanError: an edit names an expert that the layer does not have.
    """
    kept = tuple(range(n_experts))
    for edit in expert_edits(block):
        named: Iterable[int] = edit.experts
        if isinstance(edit, MergeExperts):
            named = (e for group in edit.groups for e, _ in group)
        wrong = [e for e in named if not 0 <= e < len(kept)]
        if wrong:
            raise PlanError(f"expert {wrong[0]} does not exist", expected=f"0 to {len(kept) - 1}")
        kept = tuple(kept[e] for e in edit.experts)
    return kept


def with_all_experts(plan: Plan) -> Plan:
    """The plan without the edits that delete experts."""
    return replace(plan, blocks=tuple(map(_whole, plan.blocks)), tail=tuple(map(_whole, plan.tail)))


def _whole(block: Block) -> Block:
    if not isinstance(block, Edited):
        return block
    edits = tuple(e for e in block.edits if not isinstance(e, KeepExperts))
    inner = _whole(block.block)
    return Edited(inner, edits) if edits else inner


def expert_edits(block: Block) -> tuple[KeepExperts | MergeExperts, ...]:
    """The edits of a block that delete or merge experts, the first one first."""
    if not isinstance(block, Edited):
        return ()
    own = tuple(e for e in block.edits if isinstance(e, KeepExperts | MergeExperts))
    return (*expert_edits(block.block), *own)
