"""Check tensor shapes against the keys that determine them: widths, heads, feed-forward lengths.

llama.cpp refuses a file whose tensor has a different shape from the keys. The shapes are those that
its loader requests (`arch.asked`); a size that no key states is not checked.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..arch import Finding
from ..arch.asked import asked, pattern_of
from ..arch.dimensions import KEYS, dimensions
from ..ggufio.types import Header, TensorInfo
from ..plan.text import format_layers

_REFUSED = "llama.cpp refuses the file; the key or the tensor comes from another model."


def shape_findings(header: Header) -> Iterator[Finding]:
    """One finding for each kind of tensor whose shape contradicts the metadata."""
    known = asked(header.architecture)
    sizes: dict[int | None, dict[str, int]] = {}
    wrong: dict[str, list[tuple[TensorInfo, list[int | None]]]] = {}
    for tensor in header.tensors:
        pattern, layer = pattern_of(tensor.name)
        if pattern not in known or not known[pattern].shape:
            continue
        if layer not in sizes:
            sizes[layer] = dimensions(header, layer)
        names = known[pattern].shape
        wanted = [sizes[layer].get(name) for name in names]
        wanted += [1] * (len(tensor.shape) - len(names))
        shape = tensor.shape + (1,) * (len(wanted) - len(tensor.shape))
        if any(w is not None and w != s for w, s in zip(wanted, shape, strict=True)):
            wrong.setdefault(pattern, []).append((tensor, wanted))
    for pattern, tensors in wrong.items():
        tensor, wanted = tensors[0]
        yield Finding(
            "error",
            tensor.name,
            f"has shape {_times(tensor.shape)}, expected {_times(wanted)} by "
            f"{_stated(header, tensor, known[pattern].shape, wanted)}{_others(tensors)}",
            _REFUSED,
        )


def _times(shape: tuple[int, ...] | list[int | None]) -> str:
    return "×".join("?" if n is None else str(n) for n in shape)


def _others(tensors: list[tuple[TensorInfo, list[int | None]]]) -> str:
    layers = [pattern_of(t.name)[1] for t, _ in tensors[1:]]
    named = [n for n in layers if n is not None]
    return f"; so also in layers {format_layers(named)}" if named else ""


def _stated(
    header: Header, tensor: TensorInfo, names: tuple[str, ...], wanted: list[int | None]
) -> str:
    """The keys behind the sizes that differ, with their values."""
    layer = pattern_of(tensor.name)[1]
    shape = tensor.shape + (1,) * (len(names) - len(tensor.shape))
    keys: dict[str, None] = {}
    for name, size, has in zip(names, wanted, shape, strict=False):
        if size is not None and size != has:
            keys |= dict.fromkeys(KEYS[name])
    if any(k.endswith(("key_length", "value_length")) for k in keys):
        keys |= {"embedding_length": None}  # what the length of a head is taken from without them
    stated = []
    for key in keys:
        full = key if key.startswith("tokenizer.") else f"{header.architecture}.{key}"
        value = header.get(full)
        if isinstance(value, list):
            value = value[layer] if layer is not None and layer < len(value) else None
        if value is not None:
            stated.append(f"{full} = {value}")
    return ", ".join(stated) or "the number of its dimensions"
