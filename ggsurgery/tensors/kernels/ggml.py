"""ggml's own conversions for every tensor type, from the libggml-base that
llama-cpp-python ships.

The library is found beside the package `llama_cpp` and opened by itself: llama.cpp is not
started and `llama_cpp` is not imported. `to_float` and `ggml_quantize_chunk` are the
functions that llama-quantize calls, so the bytes are its bytes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from ...errors import EngineError
from ...ggufio.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from .backend import Raw, Values

#: The types that ggml_quantize_chunk has a branch for; of any other it aborts the process.
_QUANTIZE_CHUNK: Final = frozenset(
    (
        "F32",
        "F16",
        "BF16",
        "Q1_0",
        "Q2_0",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "MXFP4",
        "NVFP4",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "TQ1_0",
        "TQ2_0",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ2_S",
        "IQ3_XXS",
        "IQ3_S",
        "IQ1_S",
        "IQ1_M",
        "IQ4_NL",
        "IQ4_XS",
    )
)


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


class Ggml:
    """Conversions between float32 and any type, by libggml-base at `path`."""

    def __init__(self, path: Path) -> None:
        try:
            self._lib = ctypes.CDLL(str(path))
            self._traits = self._lib.ggml_get_type_traits
            self._quantize = self._lib.ggml_quantize_chunk
            self._needs_imatrix = self._lib.ggml_quantize_requires_imatrix
        except (OSError, AttributeError) as error:
            raise EngineError(f"ggml does not load ({error})", file=path) from error
        self.path = path
        self._traits.argtypes = [ctypes.c_int]
        self._traits.restype = ctypes.POINTER(_TypeTraits)
        self._quantize.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            *3 * [ctypes.c_int64],
            ctypes.c_void_p,
        ]
        self._quantize.restype = ctypes.c_size_t
        self._needs_imatrix.restype = ctypes.c_bool
        self._check_layout()

    def _check_layout(self) -> None:
        """The struct is ggml's own business: make sure that it still looks as above."""
        for kind in (GGMLQuantizationType.F16, GGMLQuantizationType.Q4_K):
            found = self._traits(kind).contents
            block, size = GGML_QUANT_SIZES[kind]
            if (found.blck_size, found.type_size) != (block, size) or not found.to_float:
                raise EngineError(
                    "ggml's table of types is laid out in another way",
                    file=self.path,
                    expected=(block, size),
                    found=(found.blck_size, found.type_size),
                    hint="Install the version of llama-cpp-python that ggsurgery asks for",
                )

    def can_decode(self, kind: int) -> bool:
        """Whether ggml turns the type into float32."""
        if kind == GGMLQuantizationType.F32:
            return True
        known = _known(kind)
        return known is not None and bool(self._traits(known).contents.to_float)

    def can_encode(self, kind: int) -> bool:
        """Whether ggml makes the type from float32 alone, without an importance matrix."""
        known = _known(kind)
        return (
            known is not None
            and known.name in _QUANTIZE_CHUNK
            and not self._needs_imatrix(int(known))
        )

    def decode(self, kind: int, raw: Raw, out: Values) -> Values:
        """Fill `out` with the float32 values of `raw`."""
        if kind == GGMLQuantizationType.F32:
            out.view(np.uint8)[:] = raw
        else:
            self._traits(kind).contents.to_float(_address(raw), _address(out), out.size)
        return out

    def encode(
        self, kind: int, values: Values, row_length: int, out: Raw, imatrix: Values | None = None
    ) -> Raw:
        """Quantize whole rows of `row_length` values.

        Raises:
            EngineError: NaN or infinity, of which ggml would abort the process.
        """
        if not np.isfinite(values).all():
            raise EngineError(
                f"NaN or infinity cannot be encoded as {GGMLQuantizationType(kind).name.lower()}",
                hint="Write these tensors as f32, f16 or bf16 (`out_type`)",
            )
        rows = values.size // row_length
        weights = None if imatrix is None else _address(imatrix)
        written = self._quantize(
            kind, _address(values), _address(out), 0, rows, row_length, weights
        )
        assert written == out.size, (written, out.size)
        return out


def _known(kind: int) -> GGMLQuantizationType | None:
    try:
        known = GGMLQuantizationType(kind)
    except ValueError:
        return None
    return known if known in GGML_QUANT_SIZES else None


def _address(array: Raw | Values) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


@cache
def load() -> Ggml | None:
    """ggml of the installed llama-cpp-python, or None where there is none."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    names = {"darwin": ["libggml-base.dylib"], "win32": ["ggml-base.dll"]}
    for name in names.get(sys.platform, ["libggml-base.so", "libggml-base.so.0"]):
        path = Path(spec.origin).parent / "lib" / name
        if path.is_file():
            return Ggml(path)
    return None
