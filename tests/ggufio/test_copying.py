"""Ranges copied between files: the same bytes, holes kept, extents shared where possible."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.ggufio import copying
from ggsurgery.ggufio.copying import ReadFailed, copy_parts, copy_range
from ggsurgery.plan.recipe import step

from .._gguf import big_llama
from .._mount import tmpfs, xfs
from ..surgery.test_prepare import operate

MIB = 1 << 20


def copied(source, target, nbytes, at, to):
    with source.open("rb") as a, target.open("w+b") as b:
        b.truncate(to + nbytes)
        copy_range(a.fileno(), b.fileno(), nbytes, at, to)
    return target.read_bytes()


@given(at=st.integers(0, 9000), nbytes=st.integers(0, 20_000), to=st.integers(0, 9000))
def test_any_range(tmp_path_factory, at, nbytes, to):
    folder = tmp_path_factory.mktemp("copy")
    data = bytes(i * 7 % 251 for i in range(30_000))
    (folder / "a").write_bytes(data)
    expected = bytes(to) + data[at : at + nbytes]
    assert copied(folder / "a", folder / "b", nbytes, at, to) == expected


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), max_size=30),
    st.sampled_from([1, 7, 1000, 70_000]),
)
def test_any_parts(tmp_path_factory, drawn, size):
    """Small and large ranges, in any order, with gaps and overlaps."""
    folder = tmp_path_factory.mktemp("parts")
    data = bytes(range(251)) * (470 * min(size, 1000) // 251 + 1)
    n_items = len(data) // size
    parts = [(a % n_items, min(a % n_items + n, n_items)) for a, n in drawn]
    (folder / "a").write_bytes(b"head" + data)
    with (folder / "a").open("rb") as a, (folder / "b").open("w+b") as b:
        copy_parts(a.fileno(), b.fileno(), parts, size, 4, 3)
    expected = b"".join(data[i * size : j * size] for i, j in parts)
    assert (folder / "b").read_bytes()[3:] == expected


def test_parts_of_a_shortened_source(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    source, target = (tmp_path / "a").open("rb"), (tmp_path / "b").open("w+b")
    with source, target, pytest.raises(ReadFailed):
        copy_parts(source.fileno(), target.fileno(), [(0, 2), (90, 120)], 10, 0, 0)


@pytest.mark.parametrize("way", ["kernel", "refused", "absent", "says zero"])
def test_every_way_of_copying(tmp_path, monkeypatch, way):
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "other file system")

    match way:
        case "refused":
            monkeypatch.setattr(os, "copy_file_range", refuse)
        case "absent":
            monkeypatch.delattr(os, "copy_file_range")
        case "says zero":
            monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    data = os.urandom(3 * MIB + 17)
    (tmp_path / "a").write_bytes(data)
    assert (
        copied(tmp_path / "a", tmp_path / "b", 3 * MIB, 11, 5) == bytes(5) + data[11 : 11 + 3 * MIB]
    )


def test_another_file_system(tmp_path):
    data = os.urandom(100_000)
    (tmp_path / "a").write_bytes(data)
    with tmpfs(tmp_path, "size=1m") as disk:
        assert copied(tmp_path / "a", disk / "b", 99_999, 1, 0) == data[1:]


def test_real_errors_are_not_swallowed(tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "a").write_bytes(bytes(range(200)))
    with pytest.raises(OSError, match="full"):
        copied(tmp_path / "a", tmp_path / "b", 100, 0, 0)


@pytest.mark.parametrize("kernel", [True, False])
def test_a_source_that_became_shorter(tmp_path, monkeypatch, kernel):
    if not kernel:
        monkeypatch.delattr(os, "copy_file_range")
    (tmp_path / "a").write_bytes(bytes(range(200)))
    with pytest.raises(OSError, match="became shorter"):
        copied(tmp_path / "a", tmp_path / "b", 300, 0, 0)


def test_holes_stay_holes(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        for at in (0, 40 * MIB, 64 * MIB - 3):
            file.seek(at)
            file.write(b"end")
    data = (tmp_path / "a").read_bytes()
    assert copied(tmp_path / "a", tmp_path / "b", len(data) - 1, 1, 1) == b"\0" + data[1:]
    assert (tmp_path / "b").stat().st_blocks * 512 < MIB


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:1000], at))
    with (tmp_path / "a").open("w+b") as file:
        copying.write_all(file.fileno(), bytes(range(256)) * 40, 3)
    assert (tmp_path / "a").read_bytes() == bytes(3) + bytes(range(256)) * 40


def test_extents_are_shared_on_xfs(tmp_path):
    with xfs(tmp_path) as disk:
        source = big_llama(disk / "in.gguf", 4, 40 * MIB)
        os.sync()
        before = os.statvfs(disk)
        out = operate(source, disk / "out.gguf", step("delete", layer="1"))
        os.sync()
        after = os.statvfs(disk)
        used = (before.f_bfree - after.f_bfree) * before.f_frsize
        assert out.stat().st_size > 120 * MIB
        assert used < 10 * MIB, f"{used:,} bytes of {out.stat().st_size:,} were not shared"
