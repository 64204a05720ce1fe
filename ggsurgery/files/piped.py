"""Pipes whose content is needed more than once, or in another process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from . import temporary
from .system_errors import writing
from .text import read_bytes


def kept(path: str | Path) -> Path:
    """A file with the content of a path: of a pipe (`<(zcat t.gz)`, /dev/stdin) a copy.

    The copy has the pipe's name, is made once, and goes away with this process.

    Raises:
        FormatError: the pipe cannot be read, or is longer than `text.MAX_TEXT`.
    """
    path = Path(path)
    if path.is_file() or path.is_dir() or not path.exists():
        return path
    return _copy(path, path.stat().st_ino)


@cache
def _copy(path: Path, _number: int) -> Path:
    """Of one pipe; the next one of that name has another number."""
    data = read_bytes(path)
    copy = temporary.Folder("pipe").path / path.name  # a folder that goes away with the process
    with writing(copy):
        copy.write_bytes(data)
    return copy
