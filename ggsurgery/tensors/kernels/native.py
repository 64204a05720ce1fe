"""The compiled kernels (`native/`) through ctypes, which releases the GIL during a call."""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import EngineError
from .backend import FLOAT_SIZES, Counts, Raw, Values, n_elements

#: Version of native/include/ggs.h that this module speaks.
ABI = 1

_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
LIBRARY = ("" if sys.platform == "win32" else "lib") + "ggsurgery_kernels" + _SUFFIX

_PROBLEMS = {
    1: "the type is neither F32, F16 nor BF16",
    2: "an argument is out of bounds",
    3: "the instruction set named by GGSURGERY_ISA is unknown or this CPU lacks it",
}


def candidates() -> Iterator[Path]:
    """Where the library may lie, in the order of preference."""
    given = os.environ.get("GGSURGERY_NATIVE")
    if given:
        yield Path(given)
        return
    yield Path(__file__).with_name(LIBRARY)
    # an editable install keeps the sources in place and puts what was built here:
    yield Path(sysconfig.get_path("platlib"), "ggsurgery", "tensors", "kernels", LIBRARY)


def load() -> Native | None:
    """The back end, or None where no library was built.

    Raises:
        EngineError: GGSURGERY_NATIVE or GGSURGERY_ISA names what cannot be used, or the
            library is of another version.
    """
    for path in candidates():
        if path.is_file():
            return Native(path)
        if os.environ.get("GGSURGERY_NATIVE"):
            raise EngineError("GGSURGERY_NATIVE names no file", file=path)
    return None


class Native:
    """`Backend` of the compiled library at `path`."""

    def __init__(self, path: Path) -> None:
        try:
            self._lib = ctypes.CDLL(str(path))
        except OSError as error:
            raise EngineError(f"the kernels do not load ({error})", file=path) from error
        if (found := self._lib.ggs_abi()) != ABI:
            raise EngineError(
                "kernels of another version",
                file=path,
                expected=ABI,
                found=found,
                hint="Build them again: make native",
            )
        self._declare()
        self.path = path
        isa = self._lib.ggs_isa()
        if isa is None:
            raise EngineError(
                f"GGSURGERY_ISA={os.environ.get('GGSURGERY_ISA')} cannot be used on this CPU",
                expected="ref, avx2, avx512 or neon, as far as the CPU has them",
            )
        self.isa: str = isa.decode()

    @property
    def name(self) -> str:
        return f"native ({self.isa})"

    def _declare(self) -> None:
        size, pointer, u32, int_ = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int
        self._lib.ggs_isa.restype = ctypes.c_char_p
        self._lib.ggs_select_isa.argtypes = [ctypes.c_char_p]
        self._lib.ggs_decode.argtypes = [int_, pointer, pointer, size]
        self._lib.ggs_encode.argtypes = [int_, pointer, pointer, size]
        self._lib.ggs_linear.argtypes = [int_, pointer, pointer, pointer, size, size]
        self._lib.ggs_mask.argtypes = [int_, pointer, pointer, u32, u32, size]
        self._lib.ggs_count.argtypes = [int_, pointer, u32, u32, size, pointer]
        self._lib.ggs_moments.argtypes = [int_, pointer, pointer, size, pointer]
        self._lib.ggs_histogram.argtypes = [int_, pointer, u32, u32, int_, size, pointer, pointer]

    def select(self, isa: str | None) -> None:
        """Use the instruction set `isa` from now on, None for the best (for tests).

        Raises:
            EngineError: unknown, or this CPU lacks it.
        """
        _check(self._lib.ggs_select_isa(None if isa is None else isa.encode()))
        self.isa = self._lib.ggs_isa().decode()

    def decode(self, kind: int, raw: Raw, out: Values | None = None) -> Values:
        n = n_elements(kind, raw)
        out = np.empty(n, np.float32) if out is None else _sized(out, n)
        _check(self._lib.ggs_decode(kind, _at(out), _at(raw), n))
        return out

    def encode(self, kind: int, values: Values, out: Raw | None = None) -> Raw:
        nbytes = values.size * FLOAT_SIZES[kind]
        out = np.empty(nbytes, np.uint8) if out is None else _sized(out, nbytes)
        _check(self._lib.ggs_encode(kind, _at(out), _at(values), values.size))
        return out

    def linear(
        self, kind: int, raws: Sequence[Raw], weights: Sequence[float], out: Raw | None = None
    ) -> Raw:
        n, n_sources = n_elements(kind, raws[0]), len(raws)
        if any(raw.size != raws[0].size for raw in raws) or len(weights) != n_sources:
            raise ValueError("inputs of different lengths, or not one weight for each")
        out = np.empty(raws[0].size, np.uint8) if out is None else _sized(out, raws[0].size)
        sources = (ctypes.c_void_p * n_sources)(*[_at(raw) for raw in raws])
        factors = (ctypes.c_float * n_sources)(*weights)
        _check(self._lib.ggs_linear(kind, _at(out), sources, factors, n_sources, n))
        return out

    def mask(self, kind: int, raw: Raw, lo: int, hi: int, out: Raw | None = None) -> Raw:
        out = np.empty(raw.size, np.uint8) if out is None else _sized(out, raw.size)
        _check(self._lib.ggs_mask(kind, _at(out), _at(raw), lo, hi, n_elements(kind, raw)))
        return out

    def count(self, kind: int, raw: Raw, lo: int, hi: int) -> int:
        total = ctypes.c_uint64()
        n = n_elements(kind, raw)
        _check(self._lib.ggs_count(kind, _at(raw), lo, hi, n, ctypes.byref(total)))
        return total.value

    def moments(self, kind: int, a: Raw, b: Raw) -> tuple[float, float, float]:
        if a.size != b.size:
            raise ValueError("inputs of different lengths")
        sums = (ctypes.c_double * 3)()
        _check(self._lib.ggs_moments(kind, _at(a), _at(b), n_elements(kind, a), sums))
        return sums[0], sums[1], sums[2]

    def histogram(
        self, kind: int, raw: Raw, lo: int, hi: int, counts: Counts, *, shift: int = 0
    ) -> int:
        if counts.size != ((hi - lo - 1) >> shift) + 1:
            raise ValueError(f"{counts.size} counts for the keys {lo} to {hi} >> {shift}")
        n, below = n_elements(kind, raw), ctypes.c_uint64()
        address = _at(counts)
        _check(
            self._lib.ggs_histogram(kind, _at(raw), lo, hi, shift, n, address, ctypes.byref(below))
        )
        return below.value


def _at(array: np.ndarray[Any, Any]) -> int:
    """The address of a flat array (quicker than `array.ctypes`)."""
    if not array.flags.c_contiguous:
        raise ValueError("a kernel needs contiguous data")
    address: int = array.__array_interface__["data"][0]
    return address


def _sized(out: Any, n: int) -> Any:
    if out.size != n:
        raise ValueError(f"the output holds {out.size} items, {n} are to be written")
    return out


def _check(status: int) -> None:
    if status:
        raise EngineError(_PROBLEMS.get(status, f"kernel status {status}"))
