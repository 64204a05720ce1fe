"""Edits: changes to a layer (Damp, Scale, Add, KeepExperts, MergeExperts, KeepChannels,
KeepGroups), to the whole model (Mask, BlendShell, Drop, TrimVocab) and to entries (Set, Unset).

`to_json` of each is what a plan's digest is made of, so it must not change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

#: Named parameters of a method, sorted by name so that equal means equal.
Params = tuple[tuple[str, Any], ...]


def params(**values: Any) -> Params:
    """Sorted parameters without those that are None."""
    return tuple(sorted((k, v) for k, v in values.items() if v is not None))


@dataclass(frozen=True, slots=True)
class Damp:
    """A layer adds `factor` times as much to the residual stream."""

    kind: ClassVar[str] = "damp"
    factor: float

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class Scale:
    """Tensors of a layer, named as `attn_q` or `attn_q.weight`, are multiplied by a factor."""

    kind: ClassVar[str] = "scale"
    tensors: tuple[str, ...]
    factor: float

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class Add:
    """The array `key` is added to tensors of a layer; `sha256` is the array's."""

    kind: ClassVar[str] = "add"
    tensors: tuple[str, ...]
    key: str
    sha256: str | None = None

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class KeepExperts:
    """A layer keeps these experts, numbered as before the edit, in this order."""

    kind: ClassVar[str] = "keep_experts"
    experts: tuple[int, ...]

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class MergeExperts:
    """Each group of a layer's experts becomes one: the weighted mean of its aligned members.

    Args:
        groups: (expert, weight) pairs; the first expert of a group gives its place in the router.
    """

    kind: ClassVar[str] = "merge_experts"
    groups: tuple[tuple[tuple[int, float], ...], ...]

    @property
    def experts(self) -> tuple[int, ...]:
        """The first of each group, numbered as before the edit."""
        return tuple(group[0][0] for group in self.groups)

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class KeepChannels:
    """The feed-forward network of a layer keeps these inner channels, in this order.

    They are numbered as before the edit.
    """

    kind: ClassVar[str] = "keep_channels"
    channels: tuple[int, ...]

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class KeepGroups:
    """The attention of a layer keeps these key/value groups of `of`, in this order.

    A group is a key/value head with the query heads that read it.
    """

    kind: ClassVar[str] = "keep_kv_groups"
    groups: tuple[int, ...]
    of: int

    def to_json(self) -> Any:
        return _json(self)


BlockEdit = Damp | Scale | Add | KeepExperts | MergeExperts | KeepChannels | KeepGroups


@dataclass(frozen=True, slots=True)
class Mask:
    """Weights become zero: a share (`sparsity`) of all, or N of every M are left.

    Args:
        scope: over which weights a sparsity is counted, one of `blend_ops.SCOPES`.
        score: what decides, one of `blend_ops.SCORES`; wanda needs an imatrix.
        largest: zero the largest weights, not the smallest.
        only: regular expression of the tensors; None: the matrices of the layers.
    """

    kind: ClassVar[str] = "mask"
    scope: str
    score: str
    sparsity: float | None = None
    n: int | None = None
    m: int | None = None
    imatrix: str | None = None
    imatrix_of: Literal["this"] | None = None
    largest: bool | None = None
    only: str | None = None

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class BlendShell:
    """Tensors outside the layers are blended like them, from these sources."""

    kind: ClassVar[str] = "blend_shell"
    method: str
    sources: tuple[int, ...]
    params: Params = ()

    def to_json(self) -> Any:
        return {
            "edit": self.kind,
            "tensors": [],
            "method": self.method,
            "sources": self.sources,
            **dict(self.params),
        }


@dataclass(frozen=True, slots=True)
class Drop:
    """The output lacks a tensor, or all that a pattern matches."""

    kind: ClassVar[str] = "drop"
    tensor: str

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class Lora:
    """The updates of a LoRA adapter are added to the tensors.

    Args:
        adapter: its file.
        checksum: of the file.
        scale: the updates are multiplied by it.
        layers: for each layer of the stack the one whose updates it takes; None: its own.
    """

    kind: ClassVar[str] = "lora"
    adapter: str
    checksum: str
    scale: float = 1.0
    layers: tuple[int, ...] | None = None

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class TrimVocab:
    """The model keeps some tokens, in their order.

    Args:
        map: the file that lists them (`surgery.vocab_map`).
        sha256: of their list.
    """

    kind: ClassVar[str] = "trim_vocab"
    map: str
    sha256: str

    def to_json(self) -> Any:
        return _json(self)


ModelEdit = Mask | BlendShell | Drop | Lora | TrimVocab


@dataclass(frozen=True, slots=True)
class Set:
    """A metadata entry gets a value; `{arch}` in the key is replaced by the architecture."""

    kind: ClassVar[str] = "set"
    key: str
    value: Any
    type: str | None = None

    def to_json(self) -> Any:
        return _json(self)


@dataclass(frozen=True, slots=True)
class Unset:
    """A metadata entry is removed."""

    kind: ClassVar[str] = "unset"
    key: str

    def to_json(self) -> Any:
        return _json(self)


MetadataEdit = Set | Unset


def _json(edit: BlockEdit | Mask | Drop | Lora | TrimVocab | MetadataEdit) -> dict[str, Any]:
    values = {f.name: getattr(edit, f.name) for f in fields(edit)}
    tensors: Iterable[str] = values.pop("tensors", ())
    found = {k: v for k, v in values.items() if v is not None}
    return {"edit": edit.kind, "tensors": list(tensors), **found}
