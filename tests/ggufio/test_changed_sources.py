"""A source that another program changes while it is copied is an error, never wrong bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ggsurgery.errors import GGSurgeryError
from ggsurgery.ggufio import copying
from ggsurgery.ggufio.reader import Source
from ggsurgery.plan.recipe import step
from ggsurgery.surgery import write

from .._gguf import big_llama, tiny_llama
from ..surgery.test_prepare import operate

MIB = 1 << 20


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_and_extend(path: Path) -> None:
    """As a download that starts again: of the old size, but zeros."""
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))


def replace(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("change", [cut, cut_and_extend, overwrite, replace])
@pytest.mark.parametrize("after", [1, 3], ids=["while copying", "after the last copy"])
def test_a_source_that_changes_while_it_is_copied(tmp_path, monkeypatch, sparse, change, after):
    source = big_llama(tmp_path / "in.gguf", 4, MIB, sparse=sparse)
    with source.open("r+b") as file:  # data at both ends, so that the middle is a hole
        file.seek(-4096, os.SEEK_END)
        file.write(b"x" * 4096)
    calls = changing(monkeypatch, source, change, after)
    with pytest.raises(GGSurgeryError, match=r"in\.gguf: the file changed while it was read"):
        operate(source, tmp_path / "out.gguf", step("delete", layer="1"))
    assert len(calls) >= after
    assert {p.name for p in tmp_path.iterdir()} == {"in.gguf"}


def changing(
    monkeypatch: pytest.MonkeyPatch, source: Path, change: Callable[[Path], None], after: int
) -> list[int]:
    """Let another program change the source after so many copied tensors; counts the copies."""
    real, calls = write.copy_range, []

    def copy(*arguments: int) -> None:
        real(*arguments)
        calls.append(arguments[2])
        if len(calls) == after:
            change(source)

    monkeypatch.setattr(write, "copy_range", copy)
    return calls


def test_a_range_behind_the_end_is_no_hole(tmp_path):
    """What SEEK_DATA says of a file that was cut: nothing but a hole."""
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(4 * MIB)
    with path.open("rb") as source, (tmp_path / "b").open("w+b") as target:
        os.truncate(path, MIB)
        with pytest.raises(OSError, match="became shorter"):
            copying.copy_range(source.fileno(), target.fileno(), MIB, 2 * MIB, 0)


@pytest.mark.parametrize("lie", ["backwards", "nothing", "unsupported"])
def test_positions_of_holes_that_cannot_be(tmp_path, monkeypatch, lie):
    data = os.urandom(MIB)
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.write(data)
        file.truncate(8 * MIB)
    real = os.lseek

    def lseek(descriptor: int, at: int, how: int) -> int:
        if how == os.SEEK_DATA:
            if lie == "unsupported":
                raise OSError(errno.EINVAL, "no such call")
            return at - 1 if lie == "backwards" else at
        return at if lie == "nothing" else real(descriptor, at, how)

    monkeypatch.setattr(os, "lseek", lseek)
    with path.open("rb") as source, (tmp_path / "b").open("w+b") as target:
        target.truncate(2 * MIB)
        copying.copy_range(source.fileno(), target.fileno(), 2 * MIB, 0, 0)
    assert (tmp_path / "b").read_bytes() == data + bytes(MIB)


def test_a_source_that_changes_while_it_is_opened(tmp_path, monkeypatch):
    path = big_llama(tmp_path / "in.gguf", 2, MIB)
    other = big_llama(tmp_path / "other.gguf", 3, MIB)
    from ggsurgery.ggufio import reader

    real = reader.read_header

    def read(where: Path, **options: bool) -> object:
        header = real(where, **options)
        other.replace(path)
        return header

    monkeypatch.setattr(reader, "read_header", read)
    with pytest.raises(GGSurgeryError, match=r"in\.gguf: the file changed while it was read"):
        Source(path)


def test_a_computed_tensor_of_a_source_that_changes(tmp_path, monkeypatch):
    source = tiny_llama(tmp_path / "in.gguf", 4)
    changing(monkeypatch, source, overwrite, 1)
    with pytest.raises(GGSurgeryError, match="changed while it was read"):
        operate(source, tmp_path / "out.gguf", step("merge", layers="1-3"))
    assert {p.name for p in tmp_path.iterdir()} == {"in.gguf"}
