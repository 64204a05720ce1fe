"""Conversions of quantized types: ggml's functions against gguf-py, which is independent."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ggsurgery.errors import EngineError
from ggsurgery.tensors import kernels
from ggsurgery.tensors.kernels import ggml

T = GGMLQuantizationType
#: IQ1_M is left out where types are encoded: ggml spends half a minute on its tables
QUANTIZED = [T(n) for n in T if n in GGML_QUANT_SIZES and GGML_QUANT_SIZES[n][0] > 1]
ENCODABLE = [n for n in QUANTIZED if kernels.can_encode(n) and n != T.IQ1_M]
DECODABLE = [n for n in QUANTIZED if kernels.can_decode(n)]
#: types that gguf-py cannot decode: nothing to compare with
GGML_ONLY = {"Q1_0", "Q2_0", "Q8_1", "Q8_K"}
#: what gguf-py can quantize itself, bit by bit as ggml does (its own tests say so)
BOTH = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.TQ1_0, T.TQ2_0, T.MXFP4]


def values(rows: int = 4, width: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, (rows, width)).astype(np.float32)


def test_ggml_is_found_without_importing_llama_cpp() -> None:
    assert ggml.load() is not None


def test_expected_types_are_there() -> None:
    names = {t.name for t in T if kernels.can_encode(t)}
    assert {"Q4_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ3_S", "IQ4_XS"} <= names
    assert names.isdisjoint({"IQ2_XXS", "IQ2_XS", "IQ1_S", "Q8_1", "Q8_K"})
    assert names - {"F32", "F16", "BF16"} <= {t.name for t in DECODABLE}


@pytest.mark.parametrize("kind", DECODABLE, ids=lambda k: k.name)
def test_decode_as_gguf_py(kind: T) -> None:
    """Any bytes, so that every code of a type occurs; scales may be NaN or infinite."""
    raw = np.random.default_rng(1).integers(0, 256, 64 * GGML_QUANT_SIZES[kind][1], np.uint8)
    found = kernels.decode(kind, raw)
    assert found.size == 64 * GGML_QUANT_SIZES[kind][0]
    try:
        with np.errstate(all="ignore"):
            expected = quants.dequantize(raw, kind)
    except NotImplementedError:
        assert kind.name in GGML_ONLY
        return
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ENCODABLE, ids=lambda k: k.name)
def test_encode_keeps_the_values(kind: T) -> None:
    exact = values().ravel()
    found = kernels.decode(kind, kernels.encode(kind, exact, 512))
    error = np.sqrt(np.mean((found - exact) ** 2)) / np.sqrt(np.mean(exact**2))
    bits = GGML_QUANT_SIZES[kind][1] * 8 / GGML_QUANT_SIZES[kind][0]
    assert error < (1.0 if bits < 2.1 else 2.2 * 2.0 ** -(bits - 1.5))


@pytest.mark.parametrize("kind", BOTH, ids=lambda k: k.name)
def test_encode_as_gguf_py(kind: T) -> None:
    found = kernels.encode(kind, values().ravel(), 512)
    np.testing.assert_array_equal(found, quants.quantize(values(), kind).view(np.uint8).ravel())


@pytest.mark.parametrize("kind", [T.Q8_0, T.Q4_K, T.IQ4_XS], ids=lambda k: k.name)
def test_rows_are_encoded_one_by_one(kind: T) -> None:
    whole = kernels.encode(kind, values().ravel(), 512)
    rows = [kernels.encode(kind, row, 512) for row in values()]
    np.testing.assert_array_equal(whole, np.concatenate(rows))


def test_nan_in_a_quantized_type_is_refused() -> None:
    bad = values().ravel()
    bad[7] = np.nan
    with pytest.raises(EngineError, match="NaN or infinity cannot be encoded as q4_k"):
        kernels.encode(T.Q4_K, bad, 512)


def test_a_type_that_needs_an_imatrix_is_refused() -> None:
    with pytest.raises(EngineError, match="iq2_xxs cannot be encoded without an importance"):
        kernels.encode(T.IQ2_XXS, values().ravel(), 512)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EngineError, match="multiple of 256"):
        kernels.encode(T.Q4_K, values(width=96).ravel(), 96)


def test_without_ggml_the_package_gguf_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    with_ggml = kernels.encode(T.Q8_0, values().ravel(), 512)
    monkeypatch.setattr(ggml, "load", lambda: None)
    assert kernels.can_encode(T.Q8_0) and not kernels.can_encode(T.Q4_K)
    assert kernels.can_decode(T.Q4_K)
    np.testing.assert_array_equal(kernels.encode(T.Q8_0, values().ravel(), 512), with_ggml)
    np.testing.assert_array_equal(
        kernels.decode(T.Q8_0, with_ggml), quants.dequantize(with_ggml, T.Q8_0)
    )
