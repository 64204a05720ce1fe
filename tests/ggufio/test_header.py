"""What the reader finds in whole files is what gguf-py's reader finds."""

from __future__ import annotations

import struct
from math import prod

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFValueType, GGUFWriter
from gguf import GGMLQuantizationType as T

from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.reader import Source
from ggsurgery.ggufio.types import type_id, type_name

from .._gguf import Raw, kv_text, kv_u32, peer_metadata, peer_tensors, tensor, tiny_llama


def agree(path):
    """Header, metadata and tensor bytes against gguf-py on the same file."""
    header = read_header(path)
    peer = GGUFReader(path)
    assert {k: v.value for k, v in header.metadata.items()} == peer_metadata(path)
    assert [
        (t.name, t.shape, t.type, header.data_offset[0] + t.offset, t.nbytes)
        for t in header.tensors
    ] == [
        (t.name, tuple(map(int, t.shape)), int(t.tensor_type), t.data_offset, t.n_bytes)
        for t in peer.tensors
    ]
    with Source(path) as source:
        ours = {t.name: bytes(source.data(t)) for t in header.tensors}
    assert ours == {name: found[2] for name, found in peer_tensors(path).items()}
    return header


@pytest.mark.parametrize("kind", [T.F32, T.F16, T.Q8_0, T.Q4_0], ids=lambda k: k.name)
def test_agrees_with_gguf_py(tmp_path, kind):
    header = agree(tiny_llama(tmp_path / "a.gguf", kind=kind))
    assert (header.n_layers, header.architecture, header.order) == (4, "llama", "<")
    assert header.n_parameters == sum(prod(t.shape) for t in header.tensors)


def test_every_scalar_and_array_type(tmp_path):
    def meta(writer: GGUFWriter) -> None:
        writer.add_uint8("x.u8", 255)
        writer.add_int8("x.i8", -128)
        writer.add_uint16("x.u16", 65535)
        writer.add_int16("x.i16", -32768)
        writer.add_int32("x.i32", -(2**31))
        writer.add_uint64("x.u64", 2**64 - 1)
        writer.add_int64("x.i64", -(2**63))
        writer.add_float32("x.f32", 0.5)
        writer.add_float64("x.f64", 1e300)
        writer.add_bool("x.yes", True)
        writer.add_bool("x.no", False)
        writer.add_string("x.text", "naïve → 漢字\n")
        writer.add_array("x.ints", [1, -2, 3])
        writer.add_array("x.floats", [0.25, -1.5])
        writer.add_array("x.flags", [True, False, True])
        writer.add_array("x.texts", ["a", "", "ß"])

    header = agree(tiny_llama(tmp_path / "a.gguf", 1, meta=meta))
    assert header.metadata["x.u64"].type == GGUFValueType.UINT64
    assert header.metadata["x.flags"].item_type == GGUFValueType.BOOL


def test_big_endian(tmp_path):
    little = read_header(tiny_llama(tmp_path / "little.gguf"))
    path = tiny_llama(tmp_path / "big.gguf", big_endian=True)
    big = read_header(path)
    assert big.order == ">"
    assert {k: v.value for k, v in big.metadata.items()} == {
        k: v.value for k, v in little.metadata.items()
    }
    assert big.tensors == little.tensors
    with Source(path) as source:
        ours = np.frombuffer(source.data(big.by_name["blk.2.attn_q.weight"]), ">f4")
        peer = next(t for t in GGUFReader(path).tensors if t.name == "blk.2.attn_q.weight")
        assert np.array_equal(ours, np.asarray(peer.data).ravel())
        del ours


def test_version_2(tmp_path):
    path = tiny_llama(tmp_path / "a.gguf")
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path.write_bytes(data)
    assert agree(path).version == 2


# gguf-py counts 40 bytes a block of Q8_1; ggml's 36 are checked in tests/look/test_format.py
@pytest.mark.parametrize("kind", [t for t in T if t != T.Q8_1], ids=lambda k: k.name)
def test_every_ggml_type_has_its_size(tmp_path, kind):
    block, size = GGML_QUANT_SIZES[kind]
    data = bytes(range(256)) * (3 * size // 256 + 1)
    two = -(-size * 3 // 32) * 32
    raw = Raw(
        tensors=[tensor("a", (block, 3), kind), tensor("b", (block,), kind, two)],
        data=data[: 3 * size].ljust(two, b"\0") + data[:size],
    )
    header = read_header(raw.write(tmp_path / "a.gguf"))
    assert [t.nbytes for t in header.tensors] == [3 * size, size]
    assert type_id(type_name(kind)) == kind
    agree(tmp_path / "a.gguf")


def test_an_unknown_type_reaches_to_the_next_tensor(tmp_path):
    raw = Raw(
        tensors=[tensor("a", (7,), 999), tensor("b", (8,), T.F32, 64), tensor("c", (5,), 999, 96)],
        data=bytes(96) + b"end",
    )
    header = read_header(raw.write(tmp_path / "a.gguf"))
    assert [(t.type_name, t.nbytes) for t in header.tensors] == [
        ("type_999", 64),
        ("f32", 32),
        ("type_999", 3),
    ]


def test_tensors_may_stand_in_any_order(tmp_path):
    raw = Raw(tensors=[tensor("late", (32,), T.F32, 128), tensor("early")], data=bytes(256))
    path = raw.write(tmp_path / "a.gguf")
    assert [t.offset for t in agree(path).tensors] == [128, 0]


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_other_alignments(tmp_path, alignment):
    raw = Raw(
        kvs=[kv_text("general.architecture", "llama"), kv_u32("general.alignment", alignment)],
        alignment=alignment,
    )
    assert agree(raw.write(tmp_path / "a.gguf")).alignment == alignment


def test_a_header_without_tensors(tmp_path):
    path = Raw(tensors=[], data=b"").write(tmp_path / "vocabulary.gguf")
    assert read_header(path).tensors == ()


def test_only_plain_layer_names_are_layers(tmp_path):
    names = ["blk.7.x", "blk.07.x", "blk.7.x\n", "blk.-1.x", "v.blk.1.x", "blk.٣.x"]
    infos = [tensor(n, (8,), T.F32, 32 * i) for i, n in enumerate(names)]
    header = read_header(Raw(tensors=infos, data=bytes(192)).write(tmp_path / "a.gguf"))
    assert [t.layer for t in header.tensors] == [7, None, 7, None, None, None]
    assert set(header.layer_tensors(7)) == {"x", "x\n"}  # none hides the other
