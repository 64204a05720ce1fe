"""The kernels in numpy: the definition that the compiled ones are compared with, and what
serves where no compiler was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .backend import BF16, F16, F32, FLOAT_SIZES, Backend, Counts, Raw, Values


class Reference:
    """`Backend` in numpy."""

    name = "numpy"

    def decode(self, kind: int, raw: Raw, out: Values | None = None) -> Values:
        if out is None:
            out = np.empty(raw.size // FLOAT_SIZES[kind], np.float32)
        if kind == F32:
            out[:] = raw.view("<f4")
        elif kind == F16:
            out[:] = raw.view("<f2")
            if (nan := np.isnan(out)).any():  # quiet, as the hardware has it
                out.view(np.uint32)[nan] |= np.uint32(0x400000)
        else:
            np.left_shift(raw.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)
        return out

    def encode(self, kind: int, values: Values, out: Raw | None = None) -> Raw:
        if kind == F32:
            encoded = values.astype("<f4", copy=False)
        elif kind == F16:
            encoded = _to_f16(values)
        else:
            encoded = _to_bf16(values)
        raw: Raw = np.ascontiguousarray(encoded).view(np.uint8)
        if out is None:
            return raw.copy() if kind == F32 else raw
        out[:] = raw
        return out

    def linear(
        self, kind: int, raws: Sequence[Raw], weights: Sequence[float], out: Raw | None = None
    ) -> Raw:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            total = self.decode(kind, raws[0])
            total *= np.float32(weights[0])
            for raw, weight in zip(raws[1:], weights[1:], strict=True):
                term = self.decode(kind, raw)
                term *= np.float32(weight)
                total += term
        return self.encode(kind, total, out)

    def mask(self, kind: int, raw: Raw, lo: int, hi: int, out: Raw | None = None) -> Raw:
        key = _keys(kind, raw)
        bits = raw.view(_uint(kind))
        masked = np.where((key >= lo) & (key < hi), bits.dtype.type(0), bits).view(np.uint8)
        if out is None:
            return masked
        out[:] = masked
        return out

    def count(self, kind: int, raw: Raw, lo: int, hi: int) -> int:
        key = _keys(kind, raw)
        return int(np.count_nonzero((key >= lo) & (key < hi)))

    def moments(self, kind: int, a: Raw, b: Raw) -> tuple[float, float, float]:
        x = self.decode(kind, a).astype(np.float64)
        y = self.decode(kind, b).astype(np.float64)
        return float(x @ y), float(x @ x), float(y @ y)

    def histogram(
        self, kind: int, raw: Raw, lo: int, hi: int, counts: Counts, *, shift: int = 0
    ) -> int:
        key = _keys(kind, raw)
        inside = key[(key >= lo) & (key < hi)]
        bins = (inside - inside.dtype.type(lo)) >> shift
        counts += np.bincount(bins, minlength=counts.size).astype(np.uint32)
        return int(np.count_nonzero(key < lo))


def _uint(kind: int) -> str:
    return "<u4" if kind == F32 else "<u2"


def _keys(kind: int, raw: Raw) -> npt.NDArray[Any]:
    """The bits without the sign."""
    bits: npt.NDArray[Any] = raw.view(_uint(kind))
    keys: npt.NDArray[Any] = bits & bits.dtype.type(0x7FFFFFFF if kind == F32 else 0x7FFF)
    return keys


def _to_f16(values: Values) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        encoded = values.astype("<f2")
    if (nan := np.isnan(values)).any():  # quiet, with the sign and the upper payload bits
        bits = values[nan].view(np.uint32)
        payload = (bits >> 16 & 0x8000) | 0x7E00 | (bits >> 13 & 0x3FF)
        encoded.view("<u2")[nan] = payload.astype(np.uint16)
    return encoded


def _to_bf16(values: Values) -> npt.NDArray[np.uint16]:
    bits = values.view(np.uint32)
    upper = bits >> 16
    rounded = (bits + (np.uint32(0x7FFF) + (upper & 1))) >> 16
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, upper | np.uint32(64), rounded).astype("<u2")


REFERENCE: Backend = Reference()
assert set(FLOAT_SIZES) == {F32, F16, BF16}
