"""Look at mapped pages of a file without a copy, and give them back.

For passes that only count, copying out of the page cache would cost more than the counting.
The pages are asked for before they are touched: where the file has become shorter, that
call fails, while touching them would kill the process.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from functools import cache
from typing import Any

from .kernels import Raw

_POPULATE_READ = 22  # since Linux 5.14
_DONT_NEED = 4


@cache
def _madvise() -> Any:
    """The C library's function, which ctypes calls without the GIL; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def populate(view: Raw) -> bool:
    """Bring the pages of a mapped array into memory; False where that cannot be asked for.

    Raises:
        OSError: the pages lie behind the end of the file, or cannot be read.
    """
    function = _madvise()
    if function is None or not view.size:
        return False
    if function(*_pages(view), _POPULATE_READ) == 0:
        return True
    problem = ctypes.get_errno()
    if problem in (errno.EINVAL, errno.ENOSYS):  # an older kernel
        return False
    raise OSError(problem, "mapped pages cannot be read")


def drop(view: Raw) -> None:
    """Take the pages out of this process's memory (they stay in the system's cache).

    Only for read-only maps: of any other memory the call would forget the contents, so an
    array that can be written to is left alone.
    """
    function = _madvise()
    if function is not None and view.size and not view.flags.writeable:
        function(*_pages(view), _DONT_NEED)


def _pages(view: Raw) -> tuple[int, int]:
    """Start and length of the whole pages that the array touches."""
    address: int = view.__array_interface__["data"][0]
    start = address // mmap.PAGESIZE * mmap.PAGESIZE
    stop = -(-(address + view.size) // mmap.PAGESIZE) * mmap.PAGESIZE
    return start, stop - start
