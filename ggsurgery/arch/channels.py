"""The inner channels of feed-forward networks: which models can lose some, and the keys after it.

llama.cpp's loaders take the width of a layer's network from `feed_forward_length`; most take
the first layer's for all of them (`n_ff` in src/llama-model.h and src/models, 0c1e570).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ArchitectureError, PlanError
from ..ggufio.constants import GGUFValueType
from ..ggufio.types import Header, Value
from ..plan.channels import changes_channels, kept_channels
from ..plan.text import format_layers
from ..plan.types import Plan, main_reference
from ..tensors.parts import channel_axis
from . import properties
from .asked import asked

DOWN = "ffn_down.weight"
KEY = "feed_forward_length"
#: What no deletion can follow, by the tensor that shows it.
_REFUSED = {
    "ffn_sub_norm": "a norm over the channels would change with their number",
    "ffn_down_exps": "its layers are mixtures of experts",
    "vis_down": "image tokens go through a network of the same width",
}
#: The same by architecture.
_ARCHITECTURES = {
    "gemma3n": "some of its layers cut activations off at a mean over all channels",
    "arctic": "the width of this network is embedding_length",
}


@dataclass(frozen=True, slots=True)
class Channels:
    """The feed-forward channels of a model.

    Args:
        counts: channels by layer, of the layers that have such a network.
        by_layer: whether the loader takes another number for each layer.
    """

    counts: Mapping[int, int]
    by_layer: bool


def channels(header: Header) -> Channels:
    """The feed-forward channels of a model.

    Raises:
        ArchitectureError: it has no dense feed-forward network, or one that cannot lose channels.
    """
    arch = header.architecture
    counts: dict[int, int] = {}
    for layer in range(header.n_layers):
        tensors = header.layer_tensors(layer)
        for suffix in tensors:
            if (reason := _REFUSED.get(suffix.partition(".")[0])) is not None:
                raise _refused(header, reason, f"blk.{layer}.{suffix}")
        if DOWN in tensors:
            counts[layer] = tensors[DOWN].shape[0]
            _check_sizes(header, layer, counts[layer])
    if arch in _ARCHITECTURES:
        raise _refused(header, _ARCHITECTURES[arch], None)
    if not counts:
        raise _refused(header, "no layer has a tensor ffn_down.weight", None)
    found = asked(arch).get(f"blk.{{}}.{DOWN}")
    return Channels(counts, found is not None and found.shape[:1] == ("ff",))


def _refused(header: Header, reason: str, tensor: str | None) -> ArchitectureError:
    return ArchitectureError(
        f"feed-forward channels of {header.architecture} cannot be removed: {reason}",
        file=header.path,
        tensor=tensor,
    )


def _check_sizes(header: Header, layer: int, count: int) -> None:
    """Gate and up may be one tensor of twice the size; a size of any other kind is unknown."""
    for suffix, tensor in header.layer_tensors(layer).items():
        axis = channel_axis(suffix)
        if axis is not None and (
            axis >= len(tensor.shape) or tensor.shape[axis] not in (count, 2 * count)
        ):
            raise ArchitectureError(
                "the tensor does not have one part a channel",
                file=header.path,
                tensor=tensor.name,
                expected=f"{count} along axis {axis}, as blk.{layer}.{DOWN} has",
                found=list(tensor.shape),
            )


def rewrite(headers: Sequence[Header], plan: Plan, before: Mapping[str, Value]) -> dict[str, Value]:
    """`feed_forward_length` of the output; nothing where no channel leaves.

    Args:
        before: entries that change for other reasons, such as the arrays of moved layers.

    Raises:
        ArchitectureError: layers would keep unlike numbers, and the loader takes only one.
        PlanError: an edit names a channel or a layer that has none.
    """
    if not any(changes_channels(block) for block in plan.stack):
        return {}
    shell = headers[plan.shell]
    known = {n: channels(header) for n, header in enumerate(headers)}
    counts: dict[int, tuple[int, int]] = {}
    for number, block in enumerate(plan.stack):
        ref = main_reference(block)
        header, size = headers[ref.source], known[ref.source].counts.get(ref.index)
        if size is not None:
            try:
                counts[number] = size, len(kept_channels(block, size))
            except PlanError as error:
                raise error.at(file=header.path, tensor=f"blk.{ref.index}.{DOWN}") from error
        elif changes_channels(block):
            raise PlanError(
                f"layer {number} has no feed-forward channels",
                file=header.path,
                expected=f"layers {format_layers(list(known[ref.source].counts))}",
            )
    return _entry(shell, counts, before, by_layer=known[plan.shell].by_layer)


def _entry(
    shell: Header,
    counts: Mapping[int, tuple[int, int]],
    before: Mapping[str, Value],
    *,
    by_layer: bool,
) -> dict[str, Value]:
    key = properties.full_key(shell, KEY)
    value = before.get(key) or shell.metadata.get(key)
    if value is None:
        raise _refused(shell, f"the header has no {key}", None)
    stated = value.value if value.type == GGUFValueType.ARRAY else None
    new: dict[int, int] = {}
    for number, (size, count) in counts.items():
        old = value.value if stated is None else stated[number] if number < len(stated) else None
        if type(old) is not int or old not in (size, 2 * size):  # qwen counts gate and up together
            raise ArchitectureError(
                f"{key} does not give the number of channels",
                file=shell.path,
                expected=size,
                found=old,
            )
        new[number] = old // size * count
    first = min(new)
    for number, count in new.items():
        if count != new[first] and not by_layer:
            raise ArchitectureError(
                f"layer {number} would keep another number of channels than layer {first}",
                file=shell.path,
                expected=f"{new[first]}: llama.cpp takes one width for all layers of "
                f"{shell.architecture}",
                found=count,
            )
    if stated is None and len(set(new.values())) == 1:
        return {key: properties.number(shell, KEY, new[first])}
    length = len(stated) if stated is not None else 1 + max(new)
    listed = [new.get(n, 0 if stated is None else stated[n]) for n in range(length)]
    item = GGUFValueType.UINT32 if stated is None else value.item_type
    return {key: Value.of(listed, GGUFValueType.ARRAY, item, shell.order)}
