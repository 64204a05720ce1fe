"""Copy a range of one file into another without bringing it through this process.

`copy_file_range` shares the extents where the file system can (btrfs, XFS: the copy costs
nothing) and copies inside the kernel elsewhere. Holes of a sparse source stay holes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

#: File systems that share extents do so in blocks of this size.
SHARE_BLOCK = 4096

_CHUNK = 1 << 20  # for the portable way; larger blocks fall out of the processor's cache
#: Ranges below this size are read together with their neighbours: one call for each takes longer.
_GATHERED_BELOW = 1 << 16
_UNSUPPORTED = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


class ReadFailed(OSError):
    """The source of a copy cannot be read; any other `OSError` is of the target."""


def copy_range(source: int, target: int, nbytes: int, at: int, to: int) -> None:
    """Copy `nbytes` from offset `at` of descriptor `source` to offset `to` of `target`.

    Raises:
        ReadFailed: the source cannot be read, or became shorter.
        OSError: as from the operating system, of the target.
    """
    end = at + nbytes
    _check_inside(source, end)
    status = os.fstat(source)
    if status.st_blocks * 512 >= status.st_size:
        _copy(source, target, nbytes, at, to)
    else:
        for start, stop in _data(source, at, end):
            _copy(source, target, stop - start, start, to + start - at)
    _check_inside(source, end)  # what lay behind a new end looked like a hole


def copy_parts(
    source: int, target: int, parts: Sequence[tuple[int, int]], size: int, at: int, to: int
) -> None:
    """Copy half-open ranges of items one behind the other.

    Args:
        parts: the ranges, such as the rows that stay of an embedding.
        size: bytes of an item.
        at: offset of item 0 in `source`.
        to: offset of the first copied item in `target`.

    Raises:
        ReadFailed: the source cannot be read, or became shorter.
        OSError: as from the operating system, of the target.
    """
    near: list[tuple[int, int]] = []  # small ranges, ascending, that one block of a read holds
    for first, last in parts:
        start, stop = at + first * size, at + last * size
        small = stop - start < _GATHERED_BELOW
        if near and not (small and near[-1][1] <= start and stop - near[0][0] <= _CHUNK):
            to += _gather(source, target, near, to)
            near = []
        if small:
            near.append((start, stop))
        else:
            copy_range(source, target, stop - start, start, to)
            to += stop - start
    if near:
        _gather(source, target, near, to)


def _gather(source: int, target: int, ranges: Sequence[tuple[int, int]], to: int) -> int:
    """Copy ascending ranges by one read over all of them; returns the bytes written."""
    begin, end = ranges[0][0], ranges[-1][1]
    block = bytearray()
    while len(block) < end - begin:
        try:
            read = os.pread(source, end - begin - len(block), begin + len(block))
        except OSError as error:
            raise ReadFailed(error.errno, error.strerror) from error
        if not read:
            raise ReadFailed(errno.EIO, "the source became shorter while it was read")
        block += read
    view = memoryview(block)
    data = b"".join([view[start - begin : stop - begin] for start, stop in ranges])
    write_all(target, data, to)
    return len(data)


def _check_inside(source: int, end: int) -> None:
    if os.fstat(source).st_size < end:
        raise ReadFailed(errno.EIO, "the source became shorter while it was read")


def _data(source: int, at: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a range that are not holes, as (start, stop).

    Where a file system gives positions that cannot be, the rest counts as data.
    """
    while at < end:
        start = _seek(source, at, os.SEEK_DATA)
        if start is None or start >= end:  # only a hole is left
            return
        stop = _seek(source, start, os.SEEK_HOLE) if start >= at else None
        if stop is None or stop <= start:
            start, stop = at, end
        yield start, min(stop, end)
        at = stop


def _seek(source: int, at: int, how: int) -> int | None:
    """The next data or hole; None if there is none; `at` if the file system does not support the
    query."""
    try:
        return os.lseek(source, at, how)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno == errno.EINVAL:
            return at
        raise ReadFailed(error.errno, error.strerror) from error


def _copy(source: int, target: int, nbytes: int, at: int, to: int) -> None:
    """Copy data; where both positions agree modulo a block, whole blocks in one call.

    File systems share extents only for calls that start and end on block borders, so the
    ragged ends are copied apart.
    """
    head = -at % SHARE_BLOCK
    middle = (nbytes - head) // SHARE_BLOCK * SHARE_BLOCK
    if (at - to) % SHARE_BLOCK or middle < SHARE_BLOCK:
        _copy_plain(source, target, nbytes, at, to)
        return
    for start, size in ((0, head), (head, middle), (head + middle, nbytes - head - middle)):
        if size:
            _copy_plain(source, target, size, at + start, to + start)


def _copy_plain(source: int, target: int, nbytes: int, at: int, to: int) -> None:
    done = 0
    if hasattr(os, "copy_file_range"):
        try:
            while done < nbytes:
                moved = os.copy_file_range(source, target, nbytes - done, at + done, to + done)
                if moved == 0:
                    break  # some file systems return 0 if unsupported; use the portable way
                done += moved
        except OSError as error:  # of EIO, the portable way finds out which file it is of
            if error.errno not in _UNSUPPORTED | {errno.EIO}:
                raise
    while done < nbytes:
        try:
            block = os.pread(source, min(_CHUNK, nbytes - done), at + done)
        except OSError as error:
            raise ReadFailed(error.errno, error.strerror) from error
        if not block:
            _check_inside(source, at + nbytes)
            raise ReadFailed(errno.EIO, "the source gives no bytes before its end")
        write_all(target, block, to + done)
        done += len(block)


def write_all(target: int, data: bytes | memoryview, to: int) -> None:
    """`os.pwrite` until everything is written.

    Raises:
        OSError: as from the operating system, such as ENOSPC; EIO where nothing is taken.
    """
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(target, view, to)
        if written == 0:
            raise OSError(errno.EIO, "the file system accepts no bytes")
        view, to = view[written:], to + written
