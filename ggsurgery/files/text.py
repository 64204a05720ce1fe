"""Read text files with a bound on the bytes read.

A name may point to anything: a pipe of the shell (`<(zcat text.gz)`), a device that never
ends, a file larger than the memory. So no reader trusts a size: it reads one byte more than
the bound at most, and refuses what is longer. JSON goes through `fields`, which builds on this.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import FormatError
from .system_errors import unreadable

#: Bytes of the largest text, question file or result file: 256 MiB.
MAX_TEXT = 2**28
#: Bytes of what people write by hand: recipes, templates, licences, settings.
MAX_SMALL = 2**20
#: Bytes of one line of a file that is read line by line.
MAX_LINE = 2**24
_STEP = 2**20


def read_bytes(path: str | Path, limit: int = MAX_TEXT) -> bytes:
    """All bytes of a file or a pipe.

    Raises:
        FormatError: it cannot be read, is a device, or is longer than `limit` bytes.
    """
    try:
        with _open(path) as stream:
            return _all(stream, path, limit)
    except OSError as error:
        raise _unreadable(path, error) from error


def _all(stream: BinaryIO, path: str | Path, limit: int) -> bytes:
    parts, length = [], 0
    while part := stream.read(min(_STEP, limit + 1 - length)):
        parts.append(part)
        length += len(part)
        if length > limit:
            raise _too_long(path, limit)
    return b"".join(parts)


def regular_expression(pattern: str) -> re.Pattern[str]:
    """A regular expression that a user wrote.

    Raises:
        FormatError: it is not one.
    """
    try:
        with warnings.catch_warnings():  # Python warns of brackets that later versions may read
            warnings.simplefilter("ignore")
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise FormatError(f"not a regular expression: {pattern!r}: {error}") from None


def read_text(path: str | Path, limit: int = MAX_TEXT) -> str:
    """A UTF-8 text without its byte order mark.

    Raises:
        FormatError: see `read_bytes`; or it is not UTF-8.
    """
    return _decoded(read_bytes(path, limit), path).removeprefix("\ufeff")


def read_stdin(limit: int = MAX_TEXT) -> str:
    """The UTF-8 text that comes in.

    Raises:
        FormatError: it is longer than `limit` bytes, or not UTF-8.
    """
    return _decoded(_all(sys.stdin.buffer, "standard input", limit), "standard input")


def _decoded(data: bytes, path: str | Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            "not a UTF-8 text",
            file=path,
            found=f"byte {data[error.start]:#x} at {error.start}",
            hint="Convert it with: iconv -t utf-8",
        ) from error


def read_corpus(path: str | Path) -> str:
    """A text to measure or calibrate on, every byte of it counted.

    One newline at its end is dropped, as llama.cpp's tools do.

    Raises:
        FormatError: see `read_text`.
    """
    return _decoded(read_bytes(path), path).removesuffix("\n")


def lines(path: str | Path, limit: int = MAX_TEXT) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, each with its line break.

    Raises:
        FormatError: see `read_bytes`; or a line is longer than `MAX_LINE` bytes.
    """
    length = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), 1):
                length += len(line)
                if len(line) > MAX_LINE:
                    raise FormatError(
                        f"line {number} is too long",
                        file=path,
                        expected=f"at most {MAX_LINE:,} bytes",
                    )
                if length > limit:
                    raise _too_long(path, limit)
                yield number, line
    except OSError as error:
        raise _unreadable(path, error) from error


def _open(path: str | Path) -> BinaryIO:
    stream = Path(path).open("rb")  # noqa: SIM115 - the callers close it
    kind = os.fstat(stream.fileno()).st_mode
    if stat.S_ISBLK(kind) or (stat.S_ISCHR(kind) and not stream.isatty()):
        stream.close()
        raise FormatError("a device", file=path, expected="a file or a pipe")
    return stream


def _too_long(path: str | Path, limit: int) -> FormatError:
    return FormatError(
        "the file is too long",
        file=path,
        expected=f"at most {limit:,} bytes",
        hint="Use a part of it, such as: head -c 1M FILE > PART",
    )


def _unreadable(path: str | Path, error: OSError) -> FormatError:
    return unreadable(error, path)
