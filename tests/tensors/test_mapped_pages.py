"""Looking at mapped pages: safe with any array, and with a file that shrinks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.errors import FormatError
from ggsurgery.tensors import mapped_pages
from ggsurgery.tensors.expr import Read
from ggsurgery.tensors.kernels import F16
from ggsurgery.tensors.read_rows import RowReader
from tests.tensors._files import weights, write_file

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise of Linux")


def test_memory_that_can_be_written_to_keeps_its_contents() -> None:
    own = np.full(1 << 20, 7, np.uint8)
    mapped_pages.drop(own)
    assert (own == 7).all()


def test_a_look_shows_what_reading_gives(tmp_path: Path) -> None:
    with write_file(tmp_path / "m.gguf", {"blk.0.w": (weights((300, 512), 0), F16)}) as source:
        reader, read = RowReader([source]), Read(0, source.header.tensors[0])
        for rows in (((0, 300),), ((7, 8),), ((250, 300),)):
            seen = reader.look(read, rows)
            np.testing.assert_array_equal(seen, reader.raw(read, rows))
            mapped_pages.drop(seen)
            np.testing.assert_array_equal(reader.look(read, rows), reader.raw(read, rows))


def test_without_madvise_the_bytes_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_pages, "_madvise", lambda: None)
    with write_file(tmp_path / "m.gguf", {"blk.0.w": (weights((9, 512), 0), F16)}) as source:
        reader, read = RowReader([source]), Read(0, source.header.tensors[0])
        seen = reader.look(read, ((2, 5),))
        assert seen.flags.writeable
        np.testing.assert_array_equal(seen, reader.raw(read, ((2, 5),)))


@linux
def test_a_file_that_has_become_shorter_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with write_file(path, {"blk.0.w": (weights((3000, 512), 0), F16)}) as source:
        reader, read = RowReader([source]), Read(0, source.header.tensors[0])
        reader.look(read, ((0, 10),))
        with path.open("r+b") as file:
            file.truncate(100_000)
        with pytest.raises(FormatError, match="the file ended while it was read"):
            reader.look(read, ((0, 3000),))
