"""Copy a range of one file into another without bringing it through this process.

`copy_file_range` shares the extents where the file system can (btrfs, XFS: the copy costs
nothing) and copies inside the kernel elsewhere. Holes of a sparse source stay holes.
"""

from __future__ import annotations

import errno
import os

#: File systems that share extents do so in blocks of this size.
SHARE_BLOCK = 4096

_CHUNK = 1 << 20  # for the portable way; larger blocks fall out of the processor's cache
_UNSUPPORTED = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def copy_range(source: int, target: int, nbytes: int, at: int, to: int) -> None:
    """Copy `nbytes` from offset `at` of descriptor `source` to offset `to` of `target`.

    Raises:
        OSError: as from the operating system; EIO if the source became shorter.
    """
    if os.fstat(source).st_blocks * 512 >= os.fstat(source).st_size:
        _copy(source, target, nbytes, at, to)
        return
    end = at + nbytes
    while at < end:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        if start >= end:
            return
        stop = min(end, os.lseek(source, start, os.SEEK_HOLE))
        _copy(source, target, stop - start, start, to + start - at)
        to, at = to + stop - at, stop


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
                    break  # some file systems say 0 where they cannot; try the portable way
                done += moved
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    while done < nbytes:
        block = os.pread(source, min(_CHUNK, nbytes - done), at + done)
        if not block:
            raise OSError(errno.EIO, "the source became shorter while it was read")
        write_all(target, block, to + done)
        done += len(block)


def write_all(target: int, data: bytes | memoryview, to: int) -> None:
    """`os.pwrite` until everything is written.

    Raises:
        OSError: as from the operating system, such as ENOSPC.
    """
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(target, view, to)
        view, to = view[written:], to + written
