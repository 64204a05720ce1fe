"""One broken header after the other: each gives one `FormatError` that says what is wrong."""

from __future__ import annotations

import os
import struct

import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from ggsurgery.errors import FormatError
from ggsurgery.ggufio.cursor import MAX_HEADER
from ggsurgery.ggufio.header import read_header

from .._gguf import Raw, kv, kv_array, kv_text, kv_u32, tensor, text

ARCH = kv_text("general.architecture", "llama")
HUGE = 2**63 + 5


def q(number: int) -> bytes:
    return struct.pack("<Q", number)


BROKEN: dict[str, tuple[Raw, str]] = {
    "wrong magic": (Raw(magic=b"PK\3\4"), r"a ZIP archive or a PyTorch checkpoint, not a GGUF"),
    "safetensors": (Raw(magic=q(40)[:4]), r"not a GGUF file.*convert_hf_to_gguf"),
    "version 1": (Raw(version=1), r"version not supported: expected 2 or 3, found 1"),
    "version 4": (Raw(version=4), r"version not supported.*found 4"),
    "version of all ones": (Raw(version=2**32 - 1), r"version not supported"),
    "tensor count": (Raw(n_tensors=HUGE), r"impossible count of tensors.*found 9223"),
    "key count": (Raw(n_kv=HUGE), r"impossible count of metadata keys"),
    "one key too few": (
        Raw(kvs=[ARCH], n_kv=0),
        r"general.architecture: impossible number of dimensions: expected 0 to 4, found 8",
    ),
    "one key too many": (Raw(kvs=[ARCH], n_kv=2), r"empty tensor name"),
    "one tensor too many": (Raw(n_tensors=2), r"empty tensor name"),
    "empty key": (Raw(kvs=[kv_text("", "x")]), r"empty key"),
    "key too long": (Raw(kvs=[kv_text("k" * 65536, "x")]), r"key too long: expected at most 65535"),
    "key length": (
        Raw(kvs=[q(2**64 - 1) + bytes(40)]),
        r"key too long.*found 18446744073709551615",
    ),
    "duplicate key": (Raw(kvs=[ARCH, ARCH]), r"general\.architecture: duplicate key"),
    "unknown value type": (Raw(kvs=[kv("a", 13, bytes(8))]), r"a: unknown value type.*found 13"),
    "string length": (
        Raw(kvs=[kv("a", V.STRING, q(HUGE) + b"x")]),
        r"a: the file ends too early: expected 9223372036854775813 more bytes",
    ),
    "nested array": (
        Raw(kvs=[kv_array("a", V.ARRAY, 1, struct.pack("<IQ", V.UINT8, 1) + b"x")]),
        r"a: nested array: expected an array of scalars or strings",
    ),
    "array of unknown items": (Raw(kvs=[kv_array("a", 99, 1, bytes(8))]), r"unknown value type"),
    "array count": (
        Raw(kvs=[kv_array("a", V.UINT32, HUGE, b"")]),
        r"a: array longer than the file",
    ),
    "array count times size": (
        Raw(kvs=[kv_array("a", V.UINT64, 2**61 + 1, b"")]),
        r"a: array longer than the file",
    ),
    "array of strings, count": (
        Raw(kvs=[kv_array("a", V.STRING, 2**61, b"")]),
        r"a: array longer than the file",
    ),
    "array of strings, length": (
        Raw(kvs=[kv_array("a", V.STRING, 2, text("ok") + q(2**64 - 9) + b"x")]),
        r"a: a string of the array reaches over the end",
    ),
    "array of strings, length that wraps": (
        Raw(kvs=[kv_array("a", V.STRING, 3, q(2**64 - 8) * 3)]),
        r"a: a string of the array reaches over the end",
    ),
    "alignment 0": (Raw(kvs=[kv_u32("general.alignment", 0)]), r"unusable alignment.*found 0"),
    "alignment 24": (
        Raw(kvs=[kv_u32("general.alignment", 24)]),
        r"unusable alignment.*power of two",
    ),
    "alignment 2**31": (Raw(kvs=[kv_u32("general.alignment", 2**31)]), r"unusable alignment"),
    "alignment as text": (Raw(kvs=[kv_text("general.alignment", "32")]), r"unusable alignment"),
    "alignment as array": (
        Raw(kvs=[kv_array("general.alignment", V.UINT32, 1, bytes(4))]),
        r"unusable alignment",
    ),
    "empty tensor name": (Raw(tensors=[tensor("")]), r"empty tensor name"),
    "tensor name too long": (
        Raw(tensors=[tensor("n" * 64)]),
        r"tensor name too long: expected at most 63 bytes, found 64",
    ),
    "duplicate tensor": (
        Raw(tensors=[tensor("a"), tensor("a", offset=128)], data=bytes(256)),
        r"a: duplicate tensor name",
    ),
    "five dimensions": (Raw(tensors=[tensor("a", (1,) * 5)]), r"expected 0 to 4, found 5"),
    "four billion dimensions": (
        Raw(tensors=[tensor("a", (1,), n_dims=2**32 - 1)]),
        r"impossible number of dimensions",
    ),
    "a dimension of 0": (Raw(tensors=[tensor("a", (32, 0))]), r"impossible shape.*\[32, 0\]"),
    "a product that wraps to a small one": (
        Raw(tensors=[tensor("a", (2**32, 2**32, 32))]),
        r"impossible shape",
    ),
    "a dimension of 2**63": (Raw(tensors=[tensor("a", (2**63,))]), r"impossible shape"),
    "rows that hold no whole blocks": (
        Raw(tensors=[tensor("a", (33,), T.Q8_0)]),
        r"a: impossible shape for q8_0.*rows of 33 are not a multiple of the block size 32",
    ),
    "offset not aligned": (Raw(tensors=[tensor("a", (8,), offset=4)]), r"a: tensor not aligned"),
    "offset over the end": (
        Raw(tensors=[tensor("a", offset=2**40)]),
        r"a: tensor reaches over the end of the file",
    ),
    "offset that wraps": (Raw(tensors=[tensor("a", offset=2**64 - 32)]), r"reaches over the end"),
    "data too short": (Raw(data=bytes(127)), r"a: tensor reaches over the end.*found \d+ bytes"),
    "no data at all": (Raw(data=b""), r"reaches over the end"),
    "tensors overlap": (
        Raw(tensors=[tensor("a"), tensor("b", offset=96)], data=bytes(256)),
        r"a: tensor overlaps the next one: expected at most 96 bytes, found 128",
    ),
    "tensors at the same place": (
        Raw(tensors=[tensor("a"), tensor("b")], data=bytes(256)),
        r"a: tensor overlaps the next one: expected at most 0 bytes",
    ),
    "an unknown type without room": (
        Raw(tensors=[tensor("a", (32,), 999), tensor("b", (8,))], data=bytes(64)),
        r"a: tensor overlaps the next one: expected at most 0 bytes, found 0",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken(tmp_path, case):
    raw, message = BROKEN[case]
    path = raw.write(tmp_path / "broken.gguf")
    with pytest.raises(FormatError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 23])
def test_too_small(tmp_path, size):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF".ljust(size, b"\0")[:size])
    with pytest.raises(FormatError, match="too small for a GGUF file: expected at least 24 bytes"):
        read_header(path)


def test_truncated_at_every_byte(tmp_path):
    raw = Raw(
        kvs=[
            ARCH,
            kv_u32("a.b", 7),
            kv_array("a.words", V.STRING, 2, text("one") + text("two")),
            kv_array("a.numbers", V.INT16, 3, bytes(6)),
        ],
        tensors=[tensor("x"), tensor("y", (32, 2), T.Q8_0, 128)],
        data=bytes(128 + 68),
    )
    data = raw.build()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data)
    assert len(read_header(path).tensors) == 2
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(FormatError):
            read_header(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(FormatError, match="not a regular file"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # opening one waits for a writer
    with pytest.raises(FormatError, match="not a regular file"):
        read_header(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FormatError, match="symbolic links"):
        read_header(tmp_path / "loop")


@pytest.mark.parametrize(
    "payload",
    [
        kv("a", V.STRING, q(2**40)),
        kv_array("a", V.UINT8, 2**40, b""),
        kv_array("a", V.STRING, 2**38, b""),
        kv_array("a", V.STRING, 1, q(2**40)),
    ],
    ids=["string", "bytes", "many strings", "one long string"],
)
def test_a_huge_sparse_file_cannot_make_the_header_huge(tmp_path, payload):
    path = Raw(kvs=[payload]).write(tmp_path / "sparse.gguf")
    with path.open("r+b") as file:
        file.truncate(2**42)
    with pytest.raises(FormatError, match=rf"longer than any model's|{MAX_HEADER}"):
        read_header(path)


def test_too_many_entries_are_refused_before_they_are_read(tmp_path):
    path = Raw(n_tensors=2**30).write(tmp_path / "sparse.gguf")
    with path.open("r+b") as file:
        file.truncate(2**42)
    with pytest.raises(FormatError, match="too many tensors"):
        read_header(path)


def test_a_name_cannot_steer_the_terminal(tmp_path):
    path = Raw(tensors=[tensor("\x1b[2Jx", (0,))]).write(tmp_path / "a.gguf")
    with pytest.raises(FormatError, match=r"\\x1b\[2Jx: impossible shape") as caught:
        read_header(path)
    assert str(caught.value).isprintable()
