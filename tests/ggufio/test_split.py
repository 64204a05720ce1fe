"""Split files read as one; what does not belong together is refused."""

from __future__ import annotations

import shutil

import pytest
from gguf import GGUFValueType

from ggsurgery.errors import FormatError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.reader import Source
from ggsurgery.runtime.engine import Engine

from .._command import call, error_line
from .._gguf import Raw, kv, kv_text, peer_tensors, tensor, tiny_llama


@pytest.fixture
def shards(tmp_path):
    first = tiny_llama(tmp_path / "m.gguf", split=10)
    return sorted(first.parent.glob("m-*.gguf"))


def test_any_shard_opens_the_whole(tmp_path, shards):
    whole = read_header(tiny_llama(tmp_path / "whole.gguf"))
    assert len(shards) == 4
    for path in shards:
        header = read_header(path)
        assert {t.name: (t.shape, t.type, t.nbytes) for t in header.tensors} == {
            t.name: (t.shape, t.type, t.nbytes) for t in whole.tensors
        }
        assert list(header.paths) == shards
        assert not [k for k in header.metadata if k.startswith("split.")]


def test_the_bytes_are_those_of_each_shard(shards):
    peer = {}
    for path in shards:
        peer |= peer_tensors(path)
    with Source(shards[0]) as source:
        for t in source.header.tensors:
            assert bytes(source.data(t)) == peer[t.name][2]


def test_a_missing_shard_is_named(shards):
    shards[2].unlink()
    with pytest.raises(FormatError, match=r"shards are missing: found no m-00003-of-00004\.gguf"):
        read_header(shards[0])


def test_a_renamed_shard(shards):
    other = shards[0].with_name("other.gguf")
    shards[0].rename(other)
    with pytest.raises(FormatError, match=r"other\.gguf.*its name does not.*-00001-of-00004"):
        read_header(other)


def test_shards_in_each_others_place(shards):
    shutil.copy(shards[1], shards[2])
    with pytest.raises(FormatError, match="does not match the file's name"):
        read_header(shards[0])


def test_a_shard_of_another_byte_order(tmp_path, shards):
    big = tmp_path / "big"
    big.mkdir()
    tiny_llama(big / "m.gguf", split=10, big_endian=True)
    shutil.copy(big / shards[1].name, shards[1])
    with pytest.raises(FormatError, match="byte order differs from the first shard"):
        read_header(shards[0])


def _shard(number: int, count: int, names: list[str], total: int | None = None) -> Raw:
    u16 = GGUFValueType.UINT16
    kvs = [
        kv_text("general.architecture", "llama"),
        kv("split.no", u16, number.to_bytes(2, "little")),
        kv("split.count", u16, count.to_bytes(2, "little")),
    ]
    if total is not None:
        kvs.append(kv("split.tensors.count", GGUFValueType.INT32, total.to_bytes(4, "little")))
    infos = [tensor(n, (8,), 0, 32 * i) for i, n in enumerate(names)]
    return Raw(kvs, infos, bytes(32 * len(names)))


def test_a_tensor_in_two_shards(tmp_path):
    for n, names in enumerate((["a", "b"], ["b"])):
        _shard(n, 2, names).write(tmp_path / f"x-{n + 1:05d}-of-00002.gguf")
    with pytest.raises(FormatError, match=r"x-00002.*: b: tensor is in two shards"):
        read_header(tmp_path / "x-00001-of-00002.gguf")


def test_too_few_tensors(tmp_path):
    for n, names in enumerate((["a"], ["b"])):
        _shard(n, 2, names, total=3).write(tmp_path / f"x-{n + 1:05d}-of-00002.gguf")
    with pytest.raises(FormatError, match="tensors missing from the shards: expected 3, found 2"):
        read_header(tmp_path / "x-00001-of-00002.gguf")


def test_a_lie_about_many_shards_stays_one_line(tmp_path):
    path = _shard(0, 65535, ["a"]).write(tmp_path / "x-00001-of-65535.gguf")
    with pytest.raises(FormatError, match="and 65531 more") as caught:
        read_header(path)
    assert len(str(caught.value)) < 500


def test_no_shard_of_an_input_is_replaced_and_any_shard_names_the_file(tmp_path):
    first = tiny_llama(tmp_path / "m.gguf", split=10)
    last = max(tmp_path.iterdir())
    before = last.read_bytes()
    for command in (("delete", "--layer", 1), ("quantize", "--type", "Q8_0")):
        assert "same file" in error_line(*command, first, last, "--force")
    base = ("kl", first, "--text", first, "--save-base", last)
    assert "same file" in error_line(*base, "--force")
    assert last.read_bytes() == before
    call("quantize", "--type", "F16", last, tmp_path / "a.gguf")
    call("quantize", "--type", "F16", first, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_any_shard_can_be_run(tmp_path):
    last = max(tiny_llama(tmp_path / "m.gguf", split=10).parent.iterdir())
    with Engine.open(last, n_ctx=8) as engine:
        assert engine.decode([1, 2]).any()
