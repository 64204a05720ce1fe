"""NaN and infinity: refused in the weights that something is computed from, and in results.

A result that its type cannot hold (65,504 is the largest number of F16) is refused rather
than written as infinity or in another type than the one asked for.
"""

from __future__ import annotations

from math import isfinite
from typing import Final

import numpy as np

from ..errors import FormatError, PlanError
from ..ggufio.types import Header, TensorInfo, type_name
from . import kernels
from .kernels import BF16, F16, F32, FLOAT_SIZES, NAN_KEY, Raw, Values, backend

#: The largest finite number of each float type.
LARGEST: Final = {
    F16: float(np.finfo(np.float16).max),
    BF16: float(np.uint32(0x7F7F0000).view(np.float32)),
    F32: float(np.finfo(np.float32).max),
}


def count_nonfinite(kind: int, raw: Raw) -> int:
    """How many values of raw data are NaN or infinite; whole blocks of any type."""
    if kind not in FLOAT_SIZES:
        kind, raw = F32, kernels.decode(kind, raw).view(np.uint8)
    infinity = NAN_KEY[kind] - 1
    return raw.size // FLOAT_SIZES[kind] - backend().count(kind, raw, 0, infinity)


def is_finite(kind: int, raw: Raw) -> bool:
    """Whether raw data holds neither NaN nor infinity."""
    return count_nonfinite(kind, raw) == 0


def values_finite(values: Values) -> bool:
    """The same of float32 values."""
    return is_finite(F32, values.view(np.uint8))


def check_source(values: Values, header: Header, tensor: TensorInfo) -> None:
    """Refuse values of a source that are not numbers.

    Raises:
        FormatError: naming file and tensor.
    """
    if not values_finite(values):
        raise nonfinite_source(header, tensor)


def nonfinite_source(header: Header, tensor: TensorInfo) -> FormatError:
    return FormatError(
        "the weights hold NaN or infinity, so nothing can be computed from them",
        file=header.paths[tensor.shard],
        tensor=f"{tensor.name} ({type_name(tensor.type)})",
        hint="`ggsurgery verify --deep` lists all such tensors; convert or download the model "
        "again.",
    )


def encode(kind: int, values: Values, row_length: int) -> Raw | None:
    """As `kernels.encode`; None where a value is not a number or too large for the type.

    Block types store their scales as F16, so large values overflow there too.
    """
    if not values_finite(values):
        return None
    raw = kernels.encode(kind, values, row_length)
    if kind in FLOAT_SIZES:
        return raw if is_finite(kind, raw) else None
    overflows = float(np.abs(values).max()) > LARGEST[F16] and not is_finite(kind, raw)
    return None if overflows else raw


def too_large(kind: int, largest: float) -> PlanError:
    """The error for a result that its type cannot hold.

    Args:
        largest: its largest magnitude; infinity or NaN where float32 cannot hold it either.
    """
    limit = LARGEST.get(kind)
    wide = isfinite(largest) and largest <= LARGEST[BF16]
    return PlanError(
        f"the computed values are too large for {type_name(kind)}",
        expected=None if limit is None else f"at most {limit:.6g}",
        found=f"{largest:.6g}" if isfinite(largest) else "NaN or infinity",
        hint="Choose bf16 or f32 with `out_type`, or convert the source to one of them."
        if wide
        else "Choose a smaller factor.",
    )
