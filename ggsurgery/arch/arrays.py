"""Metadata arrays with one entry per layer: found, gathered, promoted from scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ArchitectureError, FormatError
from ..ggufio.constants import GGUFValueType
from ..ggufio.types import Header, Value
from ..plan.types import BlockRef
from . import properties
from .layer_kinds import n_tail
from .rulefile import RuleFile, keys

#: llama.cpp's LLAMA_MAX_LAYERS: its saver writes some arrays at this full length.
PADDED = 512


def layer_arrays(header: Header) -> dict[str, Value]:
    """The known per-layer keys whose value is an array, by full key."""
    names = [properties.full_key(header, k) for k in keys()["per_layer"]]
    names += keys()["per_layer_global"]
    return {
        name: value
        for name in names
        if (value := header.metadata.get(name)) is not None and value.type == GGUFValueType.ARRAY
    }


def unknown_arrays(header: Header) -> list[str]:
    """Arrays of the architecture that have the layer count's length and are not known.

    An array of length 1 is ambiguous, so a model with one layer has none.
    """
    lengths = {header.n_layers, header.n_layers - n_tail(header)} - {0, 1}
    harmless = {properties.full_key(header, k) for k in keys()["not_per_layer"]}
    harmless |= {properties.full_key(header, k) for k in keys()["layer_numbers"]}
    known = layer_arrays(header)
    return [
        name
        for name, value in header.metadata.items()
        if value.type == GGUFValueType.ARRAY
        and name.startswith(header.architecture + ".")
        and len(value) in lengths
        and name not in known
        and name not in harmless
    ]


def right_length(header: Header, length: int) -> bool:
    """Whether an array of this length can belong to the layers: all, the trunk, or padded."""
    return length in (header.n_layers, header.n_layers - n_tail(header), PADDED)


def check_lengths(header: Header) -> None:
    """Refuse a source whose arrays belong to another number of layers.

    Raises:
        ArchitectureError: naming the key.
    """
    for name, value in layer_arrays(header).items():
        if not right_length(header, len(value)):
            raise ArchitectureError(
                "array does not fit the layer count",
                file=header.path,
                tensor=name,
                expected=f"{header.n_layers} entries",
                found=len(value),
                hint="Layers were removed, but this array was not updated. `ggsurgery repair "
                "--removed LIST` fixes the file.",
            )


def check_unknown(header: Header) -> None:
    """Refuse an unknown array whose length suggests that it belongs to the layers.

    Raises:
        ArchitectureError: naming the key.
    """
    for name in unknown_arrays(header):
        raise ArchitectureError(
            "an unknown array with one entry per layer",
            file=header.path,
            tensor=name,
            found=f"{header.n_layers} layers and {len(header.metadata[name])} entries",
            hint="`allow_unknown_arch` moves its entries along with the layers.",
        )


def gather(
    rules: RuleFile | None,
    headers: Sequence[Header],
    refs: Sequence[BlockRef],
    n_trunk: int,
    shell: int = 0,
) -> dict[str, Value]:
    """The per-layer arrays of the output.

    Args:
        refs: the source layer of each output layer, trunk and tail.
        n_trunk: number of those in the trunk.
        shell: the source whose metadata the output starts from.

    Raises:
        ArchitectureError: sources differ in a value that llama.cpp reads once for all layers.
    """
    used = sorted({r.source for r in refs} | {shell})
    first = headers[shell]
    changes: dict[str, Value] = {}
    names = {
        k.removeprefix(first.architecture + ".")
        for s in used
        for k in [*layer_arrays(headers[s]), *unknown_arrays(headers[s])]
    }
    for key in sorted(names | _differing(headers, used)):
        values = [_entry(headers[r.source], key, r.index) for r in refs]
        arrays = [headers[s].metadata.get(_name(headers[s], key)) for s in used]
        promoted = not any(a is not None and a.type == GGUFValueType.ARRAY for a in arrays)
        if promoted and len(set(values)) == 1:
            own = first.metadata.get(_name(first, key))
            source = headers[refs[0].source].metadata.get(_name(first, key))
            if source is not None and (own is None or own.value != source.value):
                changes[_name(first, key)] = source
            continue
        if promoted and (rules is None or key not in rules.per_layer):
            raise ArchitectureError(
                "the layers differ in a value that llama.cpp reads once for the whole model",
                file=first.path,
                tensor=_name(first, key),
                expected="one value",
                found=", ".join(map(str, sorted(set(values), key=str))),
                hint="Take the layers from sources of the same shape.",
            )
        template = next(a for a in arrays if a is not None)
        length = _length(template, first, len(refs), n_trunk)
        item = template.item_type or template.type
        try:
            changes[_name(first, key)] = Value.of(
                values[:length], GGUFValueType.ARRAY, item, first.order
            )
        except FormatError as error:
            raise ArchitectureError(
                "a layer has no value to gather",
                file=first.path,
                tensor=_name(first, key),
                found=str(values),
            ) from error
    return changes


def _differing(headers: Sequence[Header], used: Sequence[int]) -> set[str]:
    """Known per-layer keys whose scalars differ between the used sources."""
    if len(used) < 2:
        return set()
    found = set()
    for key in keys()["per_layer"]:
        raws = {
            (v.value if (v := headers[s].metadata.get(_name(headers[s], key))) else None)
            for s in used
            if not _is_array(headers[s], key)
        }
        if len(raws) > 1:
            found.add(key)
    return found


def _name(header: Header, key: str) -> str:
    return key if key in keys()["per_layer_global"] else properties.full_key(header, key)


def _is_array(header: Header, key: str) -> bool:
    value = header.metadata.get(_name(header, key))
    return value is not None and value.type == GGUFValueType.ARRAY


def _entry(header: Header, key: str, layer: int) -> Any:
    value = header.metadata.get(_name(header, key))
    if value is None and key == "attention.head_count_kv":
        return _entry(header, "attention.head_count", layer)
    if value is None:
        return None
    found = value.value
    if isinstance(found, list):
        return found[layer] if layer < len(found) else found[-1]
    return found


def _length(template: Value, header: Header, n: int, n_trunk: int) -> int:
    """Number of entries in the new array: all layers, or the trunk only if the source had only
    those."""
    if template.type == GGUFValueType.ARRAY:
        tail = n_tail(header)
        if tail and len(template) == header.n_layers - tail:
            return n_trunk
    return n


def first_layer(header: Header, gathered: dict[str, Value]) -> dict[str, Value]:
    """Explicit keys for the head sizes that llama.cpp derives from the first layer's head count.

    Raises:
        ArchitectureError: the new first layer has no heads, and llama.cpp reads no head
            size at all then.
    """
    name = properties.full_key(header, "attention.head_count")
    if name not in gathered or header.metadata.get(name) is None:
        return {}
    old, new = _entry(header, "attention.head_count", 0), gathered[name].value[0]
    if old == new or not isinstance(old, int) or not old:
        return {}
    if not new:
        raise ArchitectureError(
            "the first layer would have no attention heads, and llama.cpp derives the head size "
            "from it",
            file=header.path,
            tensor=name,
            expected="heads in the first layer",
            found=0,
            hint="Put a layer with attention first.",
        )
    size = properties.count(header, "embedding_length") // old
    keys_ = ("attention.key_length", "attention.value_length")
    return {
        properties.full_key(header, k): properties.number(header, k, size)
        for k in keys_
        if properties.full_key(header, k) not in header.metadata
    }


def disagreements(ours: Header, theirs: Header) -> list[tuple[str, str, str]]:
    """Keys of the architecture that hold for all layers and differ between two headers.

    Returns:
        key, our value, their value; a missing value is given as `nothing`.
    """
    skip = {
        properties.full_key(ours, k)
        for n in ("per_layer", "may_differ", "positional", "layer_numbers")
        for k in keys()[n]
    }
    skip.discard(properties.full_key(ours, "attention.sliding_window"))
    names = [
        n
        for n in [*ours.metadata, *theirs.metadata]
        if n.startswith(ours.architecture + ".") and n not in skip
    ]
    found = []
    for name in dict.fromkeys(names):
        a, b = ours.metadata.get(name), theirs.metadata.get(name)
        if a is None or b is None or a.value != b.value:
            found.append((name, _show(a), _show(b)))
    return found


def _show(value: Value | None) -> str:
    return "nothing" if value is None else str(value.value)[:60]
