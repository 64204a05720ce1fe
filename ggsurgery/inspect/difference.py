"""Compare two GGUF files by content: metadata, tensors, and which layer became which."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from typing import Any

from ..files.system_errors import reading
from ..ggufio.changes import Change, changes
from ..ggufio.reader import SAMPLE, Source
from ..ggufio.types import TensorInfo

_STEP = 1 << 22  # bytes compared at a time


@dataclass(frozen=True, slots=True)
class LayerOrigin:
    """A layer of B and the layers of A whose tensors have the same bytes."""

    layer: int
    same_as: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor of B that differs from A's: `added`, `removed`, `shape`, `type`, `values`."""

    name: str
    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences between two files. `tensors` compares under equal names; `layers` finds
    moved layers by content."""

    metadata: tuple[Change, ...]
    tensors: tuple[TensorChange, ...]
    layers: tuple[LayerOrigin, ...]

    @property
    def same(self) -> bool:
        return not self.metadata and not self.tensors

    def to_json(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "metadata": [c.to_json() for c in self.metadata],
            "tensors": [asdict(t) for t in self.tensors],
            "layers": [asdict(o) for o in self.layers],
        }


def compare(a: Source, b: Source) -> Difference:
    """Compare two opened files.

    Every byte of tensors under equal names is compared; moved layers are found by samples
    of each tensor and then compared whole.
    """
    return Difference(
        tuple(changes(a.header.metadata, b.header.metadata)),
        tuple(_tensors(a, b)),
        tuple(_origins(a, b)),
    )


def _tensors(a: Source, b: Source) -> list[TensorChange]:
    old, new = a.header.by_name, b.header.by_name
    found = [TensorChange(n, "removed", _form(t), None) for n, t in old.items() if n not in new]
    for name, tensor in new.items():
        before = old.get(name)
        if before is None:
            found.append(TensorChange(name, "added", None, _form(tensor)))
        elif before.shape != tensor.shape:
            found.append(TensorChange(name, "shape", _form(before), _form(tensor)))
        elif before.type != tensor.type:
            found.append(TensorChange(name, "type", _form(before), _form(tensor)))
        elif not equal(a, before, b, tensor):
            found.append(TensorChange(name, "values", _form(before), _form(tensor)))
    return found


def equal(a: Source, one: TensorInfo, b: Source, other: TensorInfo) -> bool:
    """Whether two tensors have the same type, shape and bytes."""
    if (one.shape, one.type, one.nbytes) != (other.shape, other.type, other.nbytes):
        return False
    return all(
        _read(a, one, at, size) == _read(b, other, at, size)
        for at in range(0, one.nbytes, _STEP)
        for size in (min(_STEP, one.nbytes - at),)
    )


def _read(source: Source, tensor: TensorInfo, at: int, size: int) -> bytes:
    """Bytes of a tensor, by a call: a failing disk would end the reader of a mapping."""
    with reading(source.header.paths[tensor.shard], tensor.name):
        return os.pread(source.descriptor(tensor.shard), size, source.position(tensor) + at)


def _origins(a: Source, b: Source) -> list[LayerOrigin]:
    known: dict[str, list[int]] = {}
    for layer in _layers(a):
        known.setdefault(_fingerprint(a, layer), []).append(layer)
    rows = []
    for layer in _layers(b):
        candidates = known.get(_fingerprint(b, layer), [])
        rows.append(LayerOrigin(layer, tuple(n for n in candidates if _same_layer(a, n, b, layer))))
    return rows


def _layers(source: Source) -> list[int]:
    """The layers that have tensors, regardless of the header's count."""
    return sorted({t.layer for t in source.header.tensors if t.layer is not None})


def _same_layer(a: Source, old: int, b: Source, new: int) -> bool:
    left, right = a.header.layer_tensors(old), b.header.layer_tensors(new)
    return left.keys() == right.keys() and all(equal(a, left[s], b, right[s]) for s in left)


def _fingerprint(source: Source, layer: int) -> str:
    digest = hashlib.sha256()
    for suffix, tensor in sorted(source.header.layer_tensors(layer).items()):
        digest.update(f"{suffix}{tensor.shape}{tensor.type}".encode("utf-8", "surrogateescape"))
        for at in (0, tensor.nbytes // 2):
            digest.update(_read(source, tensor, at, min(SAMPLE, tensor.nbytes - at)))
    return digest.hexdigest()


def _form(tensor: TensorInfo) -> str:
    return f"{tensor.type_name} {list(tensor.shape)}"
