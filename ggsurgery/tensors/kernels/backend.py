"""The interface of a back end for F32, F16 and BF16, implemented by `reference` and `native`.

Raw data is a flat `uint8` array (of any alignment, possibly read-only), values are flat
`float32`. Types are ggml's numbers. Where an `out` array is given, it is filled and
returned. All functions may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ...ggufio.constants import GGMLQuantizationType

Raw = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]
Counts = npt.NDArray[np.uint32]

F32: Final = int(GGMLQuantizationType.F32)
F16: Final = int(GGMLQuantizationType.F16)
BF16: Final = int(GGMLQuantizationType.BF16)

#: The types whose arithmetic is done here and not by ggml, with their bytes a number.
FLOAT_SIZES: Final[dict[int, int]] = {F32: 4, F16: 2, BF16: 2}

#: First magnitude key that is a NaN; keys below order numbers by absolute value.
NAN_KEY: Final[dict[int, int]] = {F32: 0x7F800001, F16: 0x7C01, BF16: 0x7F81}


class Backend(Protocol):
    """Elementwise results are the same bits in every back end; sums agree to n·2^-53."""

    @property
    def name(self) -> str:
        """For a person: `numpy`, `native (avx2)`."""
        ...

    def decode(self, kind: int, raw: Raw, out: Values | None = None) -> Values:
        """The float32 values of raw data of type `kind`."""
        ...

    def encode(self, kind: int, values: Values, out: Raw | None = None) -> Raw:
        """Values rounded to nearest even in type `kind`."""
        ...

    def linear(
        self, kind: int, raws: Sequence[Raw], weights: Sequence[float], out: Raw | None = None
    ) -> Raw:
        """Σ weight·input in float32 from the left, encoded again as `kind`."""
        ...

    def mask(self, kind: int, raw: Raw, lo: int, hi: int, out: Raw | None = None) -> Raw:
        """The data with zeros where the magnitude key lies in [lo, hi)."""
        ...

    def count(self, kind: int, raw: Raw, lo: int, hi: int) -> int:
        """How many magnitude keys lie in [lo, hi)."""
        ...

    def moments(self, kind: int, a: Raw, b: Raw) -> tuple[float, float, float]:
        """Σ a·b, Σ a·a, Σ b·b in float64."""
        ...

    def histogram(
        self, kind: int, raw: Raw, lo: int, hi: int, counts: Counts, *, shift: int = 0
    ) -> int:
        """Add 1 to `counts[(key - lo) >> shift]` for each magnitude key in [lo, hi).

        `counts` has `((hi - lo - 1) >> shift) + 1` items, and the caller ensures that none
        overflows. Returns how many keys are below `lo`.
        """
        ...


def n_elements(kind: int, raw: Raw) -> int:
    """How many numbers raw data of a float type holds."""
    return raw.size // FLOAT_SIZES[kind]
