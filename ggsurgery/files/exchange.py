"""Replace an older folder by a finished one, so that one of the two always exists."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import OutputError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

#: In the name of an older folder while the new one takes its place step by step.
OLD = ".ggsurgery-old-"


@cache
def _renameat2() -> Any:
    """Linux's call that exchanges two names in one step; None elsewhere."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # macOS, Windows, an old C library
        return None
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    ]
    return function


def swap_in(finished: Path, out: Path) -> None:
    """Give `finished` the name `out`; afterwards `finished` names the older folder, if any.

    Raises:
        OSError: the exchange failed; the older folder is unchanged.
    """
    if not out.exists():
        finished.rename(out)
    elif not _exchange(finished, out):
        _one_after_the_other(finished, out)


def _exchange(a: Path, b: Path) -> bool:
    """Whether the system exchanged the two names; a file system may not support the call."""
    function = _renameat2()
    if function is None:
        return False
    names = os.fsencode(a), os.fsencode(b)
    return bool(function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _one_after_the_other(finished: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}{OLD}{secrets.token_hex(4)}")
    try:
        out.rename(old)
        finished.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    old.rename(finished)


def restore(out: Path) -> None:
    """Undo or finish the work of a run that was killed between its two renames.

    Raises:
        OutputError: several older folders exist, and the latest cannot be determined.
    """
    if not out.parent.is_dir():
        return
    start = f".{out.name}{OLD}"
    left = sorted(p for p in out.parent.iterdir() if p.name.startswith(start))
    if out.exists():
        for old in left:
            shutil.rmtree(old, ignore_errors=True)
    elif len(left) == 1:
        left[0].rename(out)
    elif left:
        raise OutputError(
            "several older folders of this name are left from killed runs",
            file=left[0],
            expected="at most one",
            found=len(left),
            hint=f"Rename the right one to {out.name}.",
        )
