"""Open a GGUF file for reading its tensor data, without loading it."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..files.closing import Closing
from ..files.system_errors import reading
from .header import read_header
from .types import Header, TensorInfo

#: Bytes hashed at the start, the middle and the end of each tensor.
SAMPLE = 4096


@dataclass(frozen=True, slots=True)
class _Identity:
    """The file attributes that change when another program writes to a file or replaces it."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _changed(path: Path) -> InputError:
    return InputError(
        "the file changed while it was read; nothing was left behind",
        file=path,
        hint="Wait until the program that writes it is done, then run the command again.",
    )


class Source(Closing):
    """A GGUF file opened read-only: its header, and its tensors as memory maps.

    Use it as a context manager. Nothing is read until `data` is called, and then only the
    pages that are touched.

    Raises:
        FormatError: from `read_header`.
    """

    def __init__(self, path: str | Path, *, alone: bool = False) -> None:
        before = None
        with contextlib.suppress(OSError):  # read_header reports what is wrong
            before = _Identity.of(Path(path).stat())
        self.header: Header = read_header(path, alone=alone)
        self._maps: dict[int, mmap.mmap] = {}
        self._descriptors: list[int] = []
        for shard in self.header.paths:
            with reading(shard):
                self._descriptors.append(os.open(shard, os.O_RDONLY))
        self._identities = [_Identity.of(os.fstat(d)) for d in self._descriptors]
        sizes = tuple(i.size for i in self._identities)
        if sizes != self.header.file_size or before not in self._identities:
            self.close()
            raise _changed(self.header.path)

    def check_unchanged(self) -> None:
        """Check that the files are what they were when they were opened.

        Raises:
            InputError: another program wrote to one of them, cut it or replaced it.
        """
        for path, descriptor, seen in zip(
            self.header.paths, self._descriptors, self._identities, strict=True
        ):
            with reading(path):
                same = _Identity.of(os.fstat(descriptor)) == seen
                if path.exists():  # removing the name does not affect the open file
                    same = same and _Identity.of(path.stat()) == seen
            if not same:
                raise _changed(path)

    def descriptor(self, shard: int = 0) -> int:
        """The file descriptor of a shard, for copies inside the kernel."""
        return self._descriptors[shard]

    def position(self, tensor: TensorInfo) -> int:
        """The position of the tensor's first byte in its shard's file."""
        return self.header.data_offset[tensor.shard] + tensor.offset

    def data(self, tensor: TensorInfo) -> memoryview:
        """The encoded bytes of a tensor, mapped from the file; valid until `close`."""
        if tensor.shard not in self._maps:
            self._maps[tensor.shard] = mmap.mmap(
                self._descriptors[tensor.shard], 0, access=mmap.ACCESS_READ
            )
        start = self.position(tensor)
        return memoryview(self._maps[tensor.shard])[start : start + tensor.nbytes]

    def forget(self, tensor: TensorInfo) -> None:
        """Give the tensor's pages back, so that memory does not grow with the file."""
        mapped = self._maps.get(tensor.shard)
        if mapped is None or not hasattr(mapped, "madvise"):
            return
        start = self.position(tensor) // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, self.position(tensor) + tensor.nbytes - start)

    def checksum(self, *, full: bool = False) -> str:
        """A checksum that identifies the file: `sampled-sha256:…` or `sha256:…`.

        The sampled sum covers the header and 4 KiB at the start, the middle and the end of
        every tensor: it takes milliseconds at any size, where sha256 of all bytes would take
        longer than the surgery. The full sum equals `sha256sum` (for a split file: over its shards
        in order).
        """
        return self._full() if full else self._sampled()

    def _sampled(self) -> str:
        digest = hashlib.sha256()
        for number, descriptor in enumerate(self._descriptors):
            left = self.header.data_offset[number]
            digest.update(f"{self.header.file_size[number]}\n".encode())
            with reading(self.header.paths[number], "the header"):
                for at in range(0, left, 1 << 20):
                    digest.update(os.pread(descriptor, min(1 << 20, left - at), at))
        for tensor in self.header.tensors:
            start = self.position(tensor)
            last = max(0, tensor.nbytes - SAMPLE)
            with reading(self.header.paths[tensor.shard], tensor.name):
                for at in (0, last // 2, last):
                    size = min(SAMPLE, tensor.nbytes - at)
                    digest.update(os.pread(self.descriptor(tensor.shard), size, start + at))
        return f"sampled-sha256:{digest.hexdigest()}"

    def _full(self) -> str:
        digest = hashlib.sha256()
        for path in self.header.paths:
            with reading(path), path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        return f"sha256:{digest.hexdigest()}"

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        # A map with live views cannot be closed; it goes when the last view goes.
        self._maps.clear()

    def __enter__(self) -> Source:
        return self
