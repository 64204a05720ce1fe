"""Step through the bytes of a header, never over their end."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from ..errors import FormatError
from .types import ByteOrder

# Far above every real model (a vocabulary of 262k tokens with merges takes 12 MB), and low
# enough that a header with a false size cannot exhaust memory or time.
MAX_HEADER = 2**28
MAX_ENTRIES = 2**18

DOWNLOAD_HINT = "The file is incomplete or damaged: get it again and compare its checksum."


class Cursor:
    """Reads values one behind the other; a step over the end is a `FormatError`.

    `data` maps the file's first `MAX_HEADER` bytes, `end` is the size of the whole file.
    """

    __slots__ = ("data", "end", "order", "path", "position", "u32", "u64", "where")

    def __init__(self, path: Path, data: mmap.mmap, end: int) -> None:
        self.path = path
        self.data = data
        self.end = end
        self.position = 0
        self.where = "file header"
        self.use("<")

    def use(self, order: ByteOrder) -> None:
        self.order = order
        self.u32 = struct.Struct(order + "I")
        self.u64 = struct.Struct(order + "Q")

    def fail(
        self,
        problem: str,
        *,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> FormatError:
        return FormatError(
            problem, file=self.path, tensor=self.where, expected=expected, found=found, hint=hint
        )

    def skip(self, size: int) -> None:
        """Step over `size` bytes, which must be there and still belong to a sane header."""
        if size > self.end - self.position:
            raise self.fail(
                "the file ends too early",
                expected=f"{size} more bytes",
                found=self.end - self.position,
                hint=DOWNLOAD_HINT,
            )
        if self.position + size > MAX_HEADER:
            raise self.fail(
                "the header is longer than any model's",
                expected=f"at most {MAX_HEADER} bytes",
                found=self.position + size,
            )
        self.position += size

    def take(self, size: int) -> bytes:
        self.skip(size)
        return self.data[self.position - size : self.position]

    def int32(self) -> int:
        return int(self.u32.unpack(self.take(4))[0])

    def int64(self) -> int:
        return int(self.u64.unpack(self.take(8))[0])

    def string(self, limit: int, what: str) -> str:
        """A name; bytes that are not UTF-8 stay as surrogates, so that they can be written back."""
        length = self.int64()
        if length > limit:
            raise self.fail(f"{what} too long", expected=f"at most {limit} bytes", found=length)
        return self.take(length).decode("utf-8", "surrogateescape")
