"""Encode a GGUF header. Untouched values are written as the bytes that were read."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from ..errors import FormatError
from .constants import GGUF_MAGIC, GGUF_VERSION
from .header import MAX_NAME
from .types import ByteOrder, TensorInfo, Value

#: ggml-backend.cpp: the alignment of tensors in memory, and so of mapped files.
TENSOR_ALIGNMENT = 32


def padded(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


def encode_header(
    metadata: Mapping[str, Value], tensors: Sequence[TensorInfo], order: ByteOrder, alignment: int
) -> bytes:
    """The header's bytes, padded so that the data section follows directly.

    Raises:
        FormatError: a tensor name is longer than ggml can hold.
    """
    parts = [
        struct.pack("<I", GGUF_MAGIC),
        struct.pack(order + "IQQ", GGUF_VERSION, len(tensors), len(metadata)),
    ]
    for key, value in metadata.items():
        raw = value.raw
        if value.order != order:
            raw = Value.of(value.value, value.type, value.item_type, order).raw
        parts += [_string(key, order), struct.pack(order + "I", int(value.type)), raw]
    for t in tensors:
        if len(encoded(t.name)) > MAX_NAME:
            raise FormatError(
                "tensor name too long for ggml", tensor=t.name, expected=f"at most {MAX_NAME} bytes"
            )
        dims = len(t.shape)
        parts += [
            _string(t.name, order),
            struct.pack(f"{order}I{dims}QIQ", dims, *t.shape, t.type, t.offset),
        ]
    header = b"".join(parts)
    return header.ljust(padded(len(header), alignment), b"\0")


def encoded(text: str) -> bytes:
    """The bytes of a name or key as they are in the file; see `Cursor.string`."""
    return text.encode("utf-8", "surrogateescape")


def _string(text: str, order: ByteOrder) -> bytes:
    data = encoded(text)
    return struct.pack(order + "Q", len(data)) + data
