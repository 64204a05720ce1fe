"""One contract for every back end and instruction set: the bits of the numpy reference."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from ggsurgery.errors import EngineError
from ggsurgery.tensors.kernels import (
    BF16,
    F16,
    F32,
    FLOAT_SIZES,
    NAN_KEY,
    Backend,
    Raw,
    Values,
    native,
)
from ggsurgery.tensors.kernels.reference import REFERENCE
from tests._needs import missing

KINDS = (F32, F16, BF16)
ARM = platform.machine().lower() in ("aarch64", "arm64")
ISAS = ("ref", "neon") if ARM else ("ref", "avx2", "avx512")


def loaded() -> native.Native:
    found = native.load()
    if found is None:
        missing("the compiled kernels (make native)")
    return found


@pytest.fixture(params=["numpy", *ISAS])
def kernel(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every back end in turn; an instruction set that the CPU lacks cannot run anywhere here."""
    if request.param == "numpy":
        yield REFERENCE
        return
    library = loaded()
    try:
        library.select(request.param)
    except EngineError:
        pytest.skip(f"this CPU has no {request.param}")
    yield library
    library.select(None)


def random_bits(kind: int, n: int, seed: int) -> Raw:
    """Any bit patterns: NaN, infinity and subnormal numbers among them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, n * FLOAT_SIZES[kind], np.uint8)


def weights(kind: int, n: int, seed: int) -> Raw:
    """Numbers as in a model."""
    values = np.random.default_rng(seed).normal(0, 0.02, n).astype(np.float32)
    return REFERENCE.encode(kind, values)


def all_patterns() -> Raw:
    return np.arange(1 << 16, dtype=np.uint16).view(np.uint8)


def edge_values() -> Values:
    """Around every boundary of F16 and BF16: halves of last places, limits, subnormals, NaN."""
    halves = REFERENCE.decode(F16, all_patterns())
    up = np.nextafter(halves, np.float32(np.inf))
    with np.errstate(over="ignore"):
        middle = (halves.astype(np.float64) + np.roll(halves, -1)) / 2
        middle = middle.astype(np.float32)
    bits = random_bits(F32, 1 << 16, 1).view(np.float32)
    limits = np.array(
        [
            65504,
            65519.996,
            65520,
            65536,
            3.4e38,
            np.inf,
            -np.inf,
            np.nan,
            -0.0,
            2.0**-25,
            2.0**-24,
            1.4e-45,
        ],
        np.float32,
    )
    return np.concatenate([halves, up, middle, bits, limits, -limits])


def uint(raw: Raw, kind: int) -> np.ndarray:
    return raw.view(np.uint32 if kind == F32 else np.uint16)


class TestContract:
    @pytest.mark.parametrize("kind", [F16, BF16])
    def test_decodes_every_pattern(self, kernel: Backend, kind: int) -> None:
        found = kernel.decode(kind, all_patterns())
        patterns = all_patterns().view(np.uint16)
        if kind == F16:
            expected = patterns.view(np.float16).astype(np.float32)
        else:
            expected = quants.dequantize(all_patterns(), GGMLQuantizationType.BF16)
        np.testing.assert_array_equal(found, expected)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(
            found.view(np.uint32)[finite], expected.view(np.uint32)[finite]
        )
        np.testing.assert_array_equal(
            found.view(np.uint32), REFERENCE.decode(kind, all_patterns()).view(np.uint32)
        )

    @pytest.mark.parametrize("kind", [F16, BF16])
    def test_encodes_every_boundary(self, kernel: Backend, kind: int) -> None:
        values = edge_values()
        found = kernel.encode(kind, values).view(np.uint16)
        if kind == F16:
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                expected = values.astype(np.float16).view(np.uint16)
            nan = np.isnan(values)
        else:
            expected = quants.quantize(values, GGMLQuantizationType.BF16).view(np.uint16).ravel()
            nan = np.isnan(values)
        np.testing.assert_array_equal(found[~nan], expected[~nan])
        assert np.isnan(kernel.decode(kind, found.view(np.uint8)))[nan].all()
        np.testing.assert_array_equal(found, REFERENCE.encode(kind, values).view(np.uint16))

    @pytest.mark.parametrize("kind", KINDS)
    def test_encode_gives_decoded_bits_back(self, kernel: Backend, kind: int) -> None:
        raw = random_bits(kind, 5000, 3)
        values = kernel.decode(kind, raw)
        number = ~np.isnan(values)
        again = kernel.encode(kind, values)
        np.testing.assert_array_equal(uint(again, kind)[number], uint(raw, kind)[number])

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
    def test_linear_has_the_bits_of_the_reference(
        self, kernel: Backend, kind: int, count: int
    ) -> None:
        factors = [float(f) for f in np.random.default_rng(count).normal(size=count)]
        for n in (1, 15, 16, 17, 33, 64, 1000):
            raws = [random_bits(kind, n, 10 * count + k) for k in range(count)]
            expected = REFERENCE.linear(kind, raws, factors)
            found = kernel.linear(kind, raws, factors)
            values = REFERENCE.decode(kind, expected)
            number = ~np.isnan(values)
            np.testing.assert_array_equal(uint(found, kind)[number], uint(expected, kind)[number])
            assert np.isnan(kernel.decode(kind, found))[~number].all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_linear_against_float64(self, kernel: Backend, kind: int) -> None:
        raws = [weights(kind, 4096, k) for k in range(3)]
        parts = [REFERENCE.decode(kind, r).astype(np.float64) for r in raws]
        exact = -parts[0] + parts[1] + parts[2]
        found = kernel.decode(kind, kernel.linear(kind, raws, [-1, 1, 1]))
        last_place = {F32: 2.0**-23, F16: 2.0**-11, BF16: 2.0**-8}[kind]
        scale = sum(np.abs(p) for p in parts)
        assert (np.abs(found - exact) <= last_place * np.abs(exact) + 3 * 2.0**-24 * scale).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_linear_in_place(self, kernel: Backend, kind: int) -> None:
        raws = [weights(kind, 1000, k) for k in range(3)]
        expected = kernel.linear(kind, raws, [0.5, 0.25, 0.25])
        assert kernel.linear(kind, raws, [0.5, 0.25, 0.25], out=raws[0]) is raws[0]
        np.testing.assert_array_equal(raws[0], expected)

    @pytest.mark.parametrize("kind", KINDS)
    def test_mask_and_count(self, kernel: Backend, kind: int) -> None:
        raw = random_bits(kind, 70_001, 5)
        lo, hi = NAN_KEY[kind] // 3, NAN_KEY[kind] // 2
        values = np.abs(REFERENCE.decode(kind, raw))
        keys = uint(raw, kind) & uint(raw, kind).dtype.type(0x7FFFFFFF if kind == F32 else 0x7FFF)
        chosen = (keys >= lo) & (keys < hi)
        assert 0 < chosen.sum() < chosen.size
        assert values[chosen].max() < values[keys >= hi][~np.isnan(values[keys >= hi])].min()
        found = uint(kernel.mask(kind, raw, lo, hi), kind)
        np.testing.assert_array_equal(found, np.where(chosen, 0, uint(raw, kind)))
        assert kernel.count(kind, raw, lo, hi) == chosen.sum()

    @pytest.mark.parametrize("kind", KINDS)
    def test_moments(self, kernel: Backend, kind: int) -> None:
        a, b = weights(kind, 12_345, 1), weights(kind, 12_345, 2)
        x, y = (REFERENCE.decode(kind, r).astype(np.float64) for r in (a, b))
        for found, (p, q) in zip(kernel.moments(kind, a, b), ((x, y), (x, x), (y, y)), strict=True):
            assert abs(found - p @ q) <= x.size * 2.0**-53 * (np.abs(p) @ np.abs(q))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("narrow", [True, False])
    def test_histogram(self, kernel: Backend, kind: int, narrow: bool) -> None:
        raw, shift = weights(kind, 40_003, 7), 12 if kind == F32 else 0
        keys = np.sort(uint(raw, kind) & uint(raw, kind).dtype.type(NAN_KEY[kind] | 0x7F))
        lo, hi = (int(keys[19_000]), int(keys[21_000])) if narrow else (0, NAN_KEY[kind])
        counts = np.zeros(((hi - lo - 1) >> shift) + 1, np.uint32)
        keys = uint(raw, kind) & uint(raw, kind).dtype.type(0x7FFFFFFF if kind == F32 else 0x7FFF)
        assert kernel.histogram(kind, raw, lo, hi, counts, shift=shift) == (keys < lo).sum()
        inside = keys[(keys >= lo) & (keys < hi)]
        np.testing.assert_array_equal(
            counts, np.bincount((inside - lo) >> shift, minlength=counts.size)
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_numbers(self, kernel: Backend, kind: int) -> None:
        empty = np.empty(0, np.uint8)
        assert kernel.decode(kind, empty).size == 0
        assert kernel.linear(kind, [empty, empty], [1, 2]).size == 0
        assert kernel.count(kind, empty, 0, 1) == 0

    @pytest.mark.parametrize("kind", KINDS)
    def test_unaligned_and_read_only(self, kernel: Backend, kind: int) -> None:
        raw = weights(kind, 333, 1)
        shifted = np.frombuffer(b"x" + raw.tobytes(), np.uint8)[1:]
        np.testing.assert_array_equal(kernel.decode(kind, shifted), kernel.decode(kind, raw))
        np.testing.assert_array_equal(
            kernel.mask(kind, shifted, 0, 1), kernel.mask(kind, raw, 0, 1)
        )


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=70),
    weight=st.floats(0, 1, width=32),
    kind=st.sampled_from(KINDS),
)
def test_any_numbers_native_as_reference(values: list[float], weight: float, kind: int) -> None:
    x = np.array(values, np.float32)
    raws = [REFERENCE.encode(kind, x), REFERENCE.encode(kind, x[::-1].copy())]
    factors = [1 - weight, weight]
    found = loaded().decode(kind, loaded().linear(kind, raws, factors))
    np.testing.assert_array_equal(
        found, REFERENCE.decode(kind, REFERENCE.linear(kind, raws, factors))
    )
