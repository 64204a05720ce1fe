"""Conversions and arithmetic on raw tensor data, at the speed of the memory.

F32, F16 and BF16 are done by the compiled kernels of `native/`, or by numpy where none
were built; every other type by ggml (or, where that is missing, by the package gguf).
"""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
from gguf import quants

from ...errors import EngineError
from ...ggufio.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from . import ggml, native, reference
from .backend import BF16, F16, F32, FLOAT_SIZES, NAN_KEY, Backend, Counts, Raw, Values

__all__ = [
    "BF16",
    "F16",
    "F32",
    "FLOAT_SIZES",
    "NAN_KEY",
    "Backend",
    "Counts",
    "Raw",
    "Values",
    "backend",
    "can_decode",
    "can_encode",
    "decode",
    "encode",
    "row_bytes",
]

log = logging.getLogger("ggsurgery.tensors.kernels")


@cache
def backend() -> Backend:
    """The fastest available back end; logs once if that is only numpy.

    Raises:
        EngineError: GGSURGERY_NATIVE or GGSURGERY_ISA names what cannot be used.
    """
    found = native.load()
    if found is not None:
        return found
    log.warning(
        "no compiled kernels found: numpy computes instead, with the same result but slower. "
        "`make native` builds them (CMake and a C compiler are needed)"
    )
    return reference.REFERENCE


def can_decode(kind: int) -> bool:
    """Whether values of this type can be read as float32 here."""
    if kind in FLOAT_SIZES:
        return True
    lib = ggml.load()
    return lib.can_decode(kind) if lib else _gguf_can(kind, "decode")


def can_encode(kind: int) -> bool:
    """Whether float32 values can be written as this type without an importance matrix."""
    if kind in FLOAT_SIZES:
        return True
    lib = ggml.load()
    return lib.can_encode(kind) if lib else _gguf_can(kind, "encode")


def row_bytes(kind: int, row_length: int) -> int:
    """Bytes of a row of `row_length` values.

    Raises:
        EngineError: the row is not a multiple of the type's block.
    """
    known = GGMLQuantizationType(kind)
    block, size = GGML_QUANT_SIZES[known]
    if row_length % block:
        raise EngineError(
            f"rows of {row_length} values cannot be written as {known.name.lower()}",
            expected=f"a multiple of {block}",
        )
    return row_length // block * size


def decode(kind: int, raw: Raw, out: Values | None = None) -> Values:
    """float32 values of raw data, whole blocks of any type.

    Example:
        >>> decode(F16, np.array([1.5], np.float16).view(np.uint8))
        array([1.5], dtype=float32)
    """
    if kind in FLOAT_SIZES:
        return backend().decode(kind, raw, out)
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if out is None:
        out = np.empty(raw.size // size * block, np.float32)
    lib = ggml.load()
    if lib is not None and lib.can_decode(kind):
        return lib.decode(kind, raw, out)
    out[:] = quants.dequantize(raw, GGMLQuantizationType(kind))
    return out


def encode(kind: int, values: Values, row_length: int) -> Raw:
    """Raw data of type `kind` from whole rows of float32 values.

    Raises:
        EngineError: the type cannot be encoded here, or NaN or infinity in a quantized type.
    """
    if kind in FLOAT_SIZES:
        return backend().encode(kind, values)
    known = GGMLQuantizationType(kind)
    if not can_encode(kind):
        raise EngineError(
            f"{known.name.lower()} cannot be encoded without an importance matrix",
            hint="Choose another type with `out_type`",
        )
    size = row_bytes(kind, row_length)
    lib = ggml.load()
    if lib is not None:
        out = np.empty(values.size // row_length * size, np.uint8)
        return lib.encode(kind, values, row_length, out)
    return quants.quantize(values.reshape(-1, row_length), known).reshape(-1).view(np.uint8)


@cache
def _gguf_can(kind: int, direction: str) -> bool:
    """Whether the package gguf has the conversion itself: tried on one block of zeros."""
    try:
        known = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[known]
        if direction == "decode":
            quants.dequantize(np.zeros(size, np.uint8), known)
        else:
            quants.quantize(np.zeros(block, np.float32), known)
    except (ValueError, KeyError, NotImplementedError):
        return False
    return True
