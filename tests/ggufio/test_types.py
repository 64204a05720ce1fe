"""Values round-trip through their bytes, in both byte orders; headers through the writer."""

from __future__ import annotations

import math
import struct

import pytest
from gguf import GGUFValueType as V
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.errors import FormatError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.types import TensorInfo, Value, tensor_nbytes, type_id
from ggsurgery.ggufio.writer import encode_header

from .._gguf import peer_metadata

BITS = {V.UINT8: 8, V.UINT16: 16, V.UINT32: 32, V.UINT64: 64}
SIGNED = {V.INT8: 8, V.INT16: 16, V.INT32: 32, V.INT64: 64}
SCALARS = {
    **{k: st.integers(0, 2**n - 1) for k, n in BITS.items()},
    **{k: st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1) for k, n in SIGNED.items()},
    V.FLOAT32: st.floats(width=32, allow_nan=False),
    V.FLOAT64: st.floats(allow_nan=False),
    V.BOOL: st.booleans(),
    V.STRING: st.text(),
}


@st.composite
def typed(draw):
    kind = draw(st.sampled_from([*SCALARS]))
    if draw(st.booleans()):
        return draw(SCALARS[kind]), kind, None
    return draw(st.lists(SCALARS[kind], max_size=5)), V.ARRAY, kind


@given(typed(), st.sampled_from("<>"))
def test_values_round_trip(case, order):
    value, kind, item = case
    made = Value.of(value, kind, item, order)
    assert (made.value, made.type, made.item_type) == (value, kind, item)
    if item is not None:
        assert len(made) == len(value)


@given(st.dictionaries(st.text(min_size=1, max_size=20), typed(), max_size=6))
def test_a_header_round_trips_and_gguf_py_reads_the_same(tmp_path_factory, entries):
    metadata = {f"k.{k}": Value.of(v, kind, item) for k, (v, kind, item) in entries.items()}
    path = tmp_path_factory.mktemp("header") / "a.gguf"
    infos = [TensorInfo("t", (8, 2), 0, 0, 64)]
    path.write_bytes(encode_header(metadata, infos, "<", 32) + bytes(64))
    header = read_header(path)
    assert header.metadata == metadata
    assert header.tensors == tuple(infos)
    simple = {k: v.value for k, v in metadata.items() if v.item_type is None}
    peer = peer_metadata(path)
    assert {k: peer[k] for k in simple} == simple


def test_values_change_byte_order_with_the_file(tmp_path):
    metadata = {
        "general.architecture": Value.of("llama", V.STRING),
        "a": Value.of([1, 2, 3], V.ARRAY, V.UINT16, ">"),
        "b": Value.of(["x", "yy"], V.ARRAY, V.STRING),
    }
    for order in "<>":
        path = tmp_path / "a.gguf"
        path.write_bytes(encode_header(metadata, [], order, 32))
        header = read_header(path)
        assert header.order == order
        assert [v.value for v in header.metadata.values()] == ["llama", [1, 2, 3], ["x", "yy"]]


@pytest.mark.parametrize(
    ("value", "kind", "item"),
    [
        (256, V.UINT8, None),
        (-1, V.UINT64, None),
        ("x", V.UINT32, None),
        (1e300, V.FLOAT32, None),
        (5, V.STRING, None),
        ("\ud800", V.STRING, None),
        ([1], V.ARRAY, None),
        ([1, "x"], V.ARRAY, V.INT32),
        (5, V.ARRAY, V.INT32),
    ],
)
def test_what_does_not_fit(value, kind, item):
    with pytest.raises(FormatError, match="does not fit the type"):
        Value.of(value, kind, item)


def test_nan_survives():
    assert math.isnan(Value.of(math.nan, V.FLOAT32).value)
    assert Value.of(math.nan, V.FLOAT32).raw == struct.pack("<f", math.nan)


def test_an_empty_array_is_an_entry():
    assert Value.of([], V.ARRAY, V.UINT8)


def test_sizes_and_names():
    assert tensor_nbytes((256, 3), type_id("q4_k")) == 3 * 144
    assert tensor_nbytes((256, 3), 999) is None
    with pytest.raises(ValueError, match="are not a multiple of the block size 256"):
        tensor_nbytes((288,), type_id("Q4_K"))
    with pytest.raises(FormatError, match="unknown tensor type 'q9'"):
        type_id("q9")


def test_a_tensor_name_that_ggml_cannot_hold():
    info = TensorInfo("n" * 64, (8,), 0, 0, 32)
    with pytest.raises(FormatError, match="tensor name too long for ggml: expected at most 63"):
        encode_header({}, [info], "<", 32)
