"""The contents of a GGUF header as immutable values.

Source of the format: the GGUF specification in ggml's docs (gguf.md), version 3.

    magic "GGUF" | version u32 | n_tensors u64 | n_kv u64
    n_kv      × ( key string | value type u32 | value )
    n_tensors × ( name string | n_dims u32 | dims u64… | ggml type u32 | offset u64 )
    padding to general.alignment | tensor data
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

from ..errors import FormatError, did_you_mean
from .constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from .purpose import not_a_model

ByteOrder = Literal["<", ">"]

#: struct code of every scalar value type; strings and arrays are not scalars.
SCALAR_CODES: dict[GGUFValueType, str] = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

# As llama.cpp prints it: `blk.07.x` or a name with a line break is another tensor.
BLOCK_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,8})\.(.+)", re.DOTALL)

#: Above every model; llama.cpp itself stops at 512 (LLAMA_MAX_LAYERS).
MAX_LAYERS = 2**12


#: Types that ggml has and this version of the package gguf lacks (ggml.h of llama.cpp 0c1e570).
NEWER_TYPES: dict[int, str] = {42: "q2_0"}

#: Values and bytes of a block where the package gguf has none or, for q8_1, 40 bytes for
#: 36 (ggml-common.h); a test compares the sizes of all types with libggml.
_BLOCKS: dict[int, tuple[int, int]] = {int(GGMLQuantizationType.Q8_1): (32, 36), 42: (64, 18)}

#: Types that ggml removed; llama.cpp refuses files with tensors of these (ggml.h).
REMOVED_TYPES: dict[int, str] = {
    4: "q4_2",
    5: "q4_3",
    31: "q4_0_4_4",
    32: "q4_0_4_8",
    33: "q4_0_8_8",
    36: "iq4_nl_4_4",
    37: "iq4_nl_4_8",
    38: "iq4_nl_8_8",
}


def ggml_type(type_id: int) -> GGMLQuantizationType | None:
    """The ggml type of an id, or None if this version of the package gguf has none."""
    try:
        return GGMLQuantizationType(type_id)
    except ValueError:
        return None


def type_name(type_id: int) -> str:
    """The name of a tensor type as llama.cpp prints it, `q4_K` written `q4_k`."""
    known = ggml_type(type_id)
    if known is not None:
        return known.name.lower()
    if type_id in NEWER_TYPES:
        return NEWER_TYPES[type_id]
    return REMOVED_TYPES.get(type_id, f"type_{type_id}")


def block_size(type_id: int) -> tuple[int, int] | None:
    """Values and bytes of a type's block; None for a type that ggml does not have."""
    if type_id in _BLOCKS:
        return _BLOCKS[type_id]
    known = ggml_type(type_id)
    return None if known is None else GGML_QUANT_SIZES.get(known)


def type_id(name: str) -> int:
    """The id of a tensor type by its name, in any case.

    Raises:
        FormatError: no such type.
    """
    try:
        return int(GGMLQuantizationType[name.upper()])
    except KeyError:
        known = [t.name.lower() for t in GGMLQuantizationType]
        near = did_you_mean(name.lower(), known)
        raise FormatError(
            f"unknown tensor type {name!r}",
            hint=near,
            expected=None if near else f"one of {', '.join(known)}",
        ) from None


def tensor_nbytes(shape: tuple[int, ...], kind: int) -> int | None:
    """Bytes of a tensor of `shape` (ggml order, row length first); None for an unknown type.

    Raises:
        ValueError: the row length is not a multiple of the type's block.
    """
    sizes = block_size(kind)
    if sizes is None:
        return None
    block, size = sizes
    if shape[0] % block:
        raise ValueError(f"rows of {shape[0]} are not a multiple of the block size {block}")
    return prod(shape) // block * size


@dataclass(frozen=True, slots=True)
class Value:
    """One metadata value, kept as the bytes that are in the file.

    `raw` is the encoded payload behind the type tag; of an array it starts with the
    item type (u32) and the count (u64). Untouched values are written back as these
    bytes, so nothing is lost that this program does not understand.
    """

    type: GGUFValueType
    raw: bytes = field(repr=False)
    order: ByteOrder = "<"

    @property
    def item_type(self) -> GGUFValueType | None:
        """Type of the items of an array; None for a scalar or string."""
        if self.type != GGUFValueType.ARRAY:
            return None
        return GGUFValueType(struct.unpack_from(self.order + "I", self.raw)[0])

    def __bool__(self) -> bool:
        return True  # an empty array is an entry too

    def __len__(self) -> int:
        """Items of an array, bytes of a string, 1 for a scalar."""
        if self.type == GGUFValueType.ARRAY:
            return int(struct.unpack_from(self.order + "Q", self.raw, 4)[0])
        if self.type == GGUFValueType.STRING:
            return len(self.raw) - 8
        return 1

    @property
    def value(self) -> Any:
        """The value in Python's types; bytes that are not UTF-8 become surrogates."""
        if self.type == GGUFValueType.STRING:
            return self.raw[8:].decode("utf-8", "surrogateescape")
        if self.type == GGUFValueType.ARRAY:
            return self._items()
        return struct.unpack(self.order + SCALAR_CODES[self.type], self.raw)[0]

    def preview(self, limit: int) -> str:
        """At most `limit` characters of the value, and `…` for the rest; of a long array, its
        length. Nothing beyond them is decoded: a value may take hundreds of megabytes.
        """
        item = self.item_type
        if item is not None:
            small = len(self) <= 4096 and len(self.raw) <= 65536
            items = ", ".join(map(str, self._items())) if small else ""
            if items and len(items) <= limit:
                return f"[{items}]"
            return f"{item.name.lower()} × {len(self)}"
        if self.type != GGUFValueType.STRING:
            return str(self.value)
        start = self.raw[8 : 8 + 4 * limit + 4].decode("utf-8", "surrogateescape")
        whole = len(self) <= 4 * limit + 4 and len(start) <= limit
        return start if whole else start[: limit - 1] + "…"

    def _items(self) -> list[Any]:
        item, count = self.item_type, len(self)
        if item == GGUFValueType.STRING:
            out, position, raw = [], 12, self.raw
            size = struct.Struct(self.order + "Q")
            for _ in range(count):
                (length,) = size.unpack_from(raw, position)
                position += 8 + length
                out.append(raw[position - length : position].decode("utf-8", "surrogateescape"))
            return out
        assert item is not None
        return list(struct.unpack_from(f"{self.order}{count}{SCALAR_CODES[item]}", self.raw, 12))

    @classmethod
    def of(
        cls,
        value: Any,
        type: GGUFValueType,
        item_type: GGUFValueType | None = None,
        order: ByteOrder = "<",
    ) -> Value:
        """Encode a Python value.

        Raises:
            FormatError: the value does not fit the type.
        """
        try:
            return cls(type, _encode(value, type, item_type, order), order)
        except (struct.error, TypeError, AttributeError, OverflowError, UnicodeError) as error:
            raise FormatError(
                f"{str(value)[:60]!r} does not fit the type {type.name.lower()} ({error})"
            ) from error


def _encode(
    value: Any, type: GGUFValueType, item_type: GGUFValueType | None, order: ByteOrder
) -> bytes:
    if type == GGUFValueType.STRING:
        data: bytes = value.encode("utf-8", "surrogateescape")
        return struct.pack(order + "Q", len(data)) + data
    if type == GGUFValueType.ARRAY:
        if item_type is None:
            raise TypeError("an array needs an item type")
        head = struct.pack(order + "IQ", int(item_type), len(value))
        if item_type == GGUFValueType.STRING:
            return head + b"".join(_encode(v, item_type, None, order) for v in value)
        return head + struct.pack(f"{order}{len(value)}{SCALAR_CODES[item_type]}", *value)
    return struct.pack(order + SCALAR_CODES[type], value)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and what it is.

    `shape` is in ggml's order: the row length first, numpy's shape reversed.
    `offset` counts from the start of the data section of its shard.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int
    shard: int = 0

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def type_name(self) -> str:
        return type_name(self.type)

    @property
    def layer(self) -> int | None:
        """The N of `blk.N.…`, None outside the layers."""
        match = BLOCK_NAME.fullmatch(self.name)
        return int(match.group(1)) if match else None

    @property
    def suffix(self) -> str:
        """The name without `blk.N.`."""
        match = BLOCK_NAME.fullmatch(self.name)
        return match.group(2) if match else self.name


@dataclass(frozen=True)
class Header:
    """A validated GGUF header. Of split files: of all shards together.

    `data_offset` holds the start of the data section of each shard, `paths` their files.
    """

    paths: tuple[Path, ...]
    version: int
    order: ByteOrder
    alignment: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: tuple[int, ...]
    file_size: tuple[int, ...]

    @property
    def path(self) -> Path:
        return self.paths[0]

    def get(self, key: str, default: Any = None) -> Any:
        """A value in Python's types; `{arch}` in the key is replaced by the architecture."""
        found = self.metadata.get(key.replace("{arch}", self.architecture))
        return default if found is None else found.value

    def number(self, key: str) -> int | None:
        """A whole number, or None where the entry is missing or of another type."""
        found = self.get(key)
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def numbers(self, key: str, count: int) -> list[int] | None:
        """`count` whole numbers, of an array or of one number for all; None if not so."""
        found = self.get(key)
        if isinstance(found, list):
            whole = len(found) >= count and all(type(n) is int for n in found)
            return found[:count] if whole else None
        one = self.number(key)
        return None if one is None else [one] * count

    @cached_property
    def architecture(self) -> str:
        value = self.metadata.get("general.architecture")
        return str(value.value) if value is not None else ""

    @property
    def n_layers(self) -> int:
        """`{arch}.block_count`: trunk and tail layers together.

        Raises:
            FormatError: the key is missing or no number.
        """
        key = f"{self.architecture}.block_count"
        count = self.get(key)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_LAYERS:
            raise not_a_model(self) or FormatError(
                "no usable layer count",
                file=self.path,
                tensor=key,
                expected=f"an integer from 0 to {MAX_LAYERS}",
                found=count,
                hint="Surgery works on language models with blk.N.* tensors; "
                "`ggsurgery meta show` lists this file's entries.",
            )
        return count

    @cached_property
    def by_name(self) -> dict[str, TensorInfo]:
        return {t.name: t for t in self.tensors}

    def layer_tensors(self, layer: int) -> dict[str, TensorInfo]:
        """The tensors of one layer by their name without `blk.N.`."""
        return self._layers.get(layer, {})

    @cached_property
    def shell(self) -> tuple[TensorInfo, ...]:
        """The tensors outside the layers: embeddings, final norm, output."""
        return tuple(t for t in self.tensors if t.layer is None)

    @cached_property
    def _layers(self) -> dict[int, dict[str, TensorInfo]]:
        layers: dict[int, dict[str, TensorInfo]] = {}
        for t in self.tensors:
            if (layer := t.layer) is not None:
                layers.setdefault(layer, {})[t.suffix] = t
        return layers

    @cached_property
    def n_parameters(self) -> int:
        """Counted from the shapes, never scaled."""
        return sum(t.n_elements for t in self.tensors)

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of tensor data, padding not counted."""
        return sum(t.nbytes for t in self.tensors)
