"""Errors of the operating system as one line: the file, what was being done, the next step.

    with reading(path, "its tensors"):
        block = os.pread(descriptor, size, at)

An `OSError` of a descriptor has no file name, so it is translated where the file is known.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import FormatError, GGSurgeryError, InputError, OutputError

_FREE = "Free some room and run it again."
_DISK = "The disk or its connection fails: see the system's log (dmesg), then run it again"
_GONE = "The disk is gone: mount it again, then run the command again."

#: Errors of a full disk, by error number: the problem and the next step.
_NO_ROOM = {
    errno.ENOSPC: ("the disk ran full while writing", _FREE),
    errno.EDQUOT: ("the disk quota ran out while writing", _FREE),
    errno.EFBIG: ("the file grew larger than allowed here", "See ulimit -f, or use another disk."),
}

_HINTS = {
    errno.ESTALE: _GONE,
    errno.ENODEV: _GONE,
    errno.ENXIO: _GONE,
    errno.ENOTCONN: _GONE,
    errno.EACCES: "Check the rights of the file and of its folder.",
    errno.EPERM: "Check the rights of the file and of its folder.",
    errno.EROFS: "Name an output on another disk.",
    errno.EMFILE: "See ulimit -n.",
    errno.ENAMETOOLONG: "Name a shorter one.",
}


def no_room(error: OSError, file: str | Path) -> OutputError | None:
    """The error of a full disk; None for any other."""
    if error.errno not in _NO_ROOM:
        return None
    problem, hint = _NO_ROOM[error.errno]
    return OutputError(f"{problem}; nothing was left behind", file=file, hint=hint)


def read_error(error: OSError, file: str | Path, what: str = "") -> GGSurgeryError:
    """The error of a failed read; `what` was read."""
    hint = _hint_of_reading(error) or "Another program removed it; run the command again."
    return InputError(_problem(error, f"while reading {what}".rstrip()), file=file, hint=hint)


def unreadable(error: OSError, file: str | Path) -> FormatError:
    """The error of a file that cannot be opened or read, such as one that is not there."""
    text = error.strerror or str(error)
    return FormatError(f"cannot be read: {text}", file=file, hint=_hint_of_reading(error))


def _hint_of_reading(error: OSError) -> str | None:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return None
    return _HINTS.get(error.errno or 0, f"{_DISK}, or take another copy of the file.")


def write_error(error: OSError, file: str | Path, what: str = "") -> GGSurgeryError:
    """The error of a failed write; nothing stays under the output's name."""
    if full := no_room(error, file):
        return full
    hint = _HINTS.get(error.errno or 0, f"{_DISK}, or write to another disk.")
    doing = f"while writing {what}".rstrip()
    return OutputError(f"{_problem(error, doing)}; nothing was left behind", file=file, hint=hint)


def _problem(error: OSError, doing: str) -> str:
    text = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    return f"{text[:1].lower()}{text[1:]} {doing}"


class SystemCallError(GGSurgeryError):
    """The operating system refused a call."""

    code = "system"


def system_error(error: OSError, step: str | None = None) -> GGSurgeryError:
    """The error of a call whose file is not known any more, but by the error itself.

    Args:
        step: what was being done, where the error names no file.
    """
    place = error.filename or error.filename2
    file = None if place is None else os.fsdecode(place) if isinstance(place, bytes) else str(place)
    if error.errno in _NO_ROOM:
        hint: str | None = _NO_ROOM[error.errno][1]
    else:
        hint = _hint_of_reading(error)
    problem = error.strerror or str(error)
    if file is None and step is not None:
        problem = _problem(error, f"in {step}")
    return SystemCallError(problem, file=file, hint=hint)


@contextlib.contextmanager
def reading(file: str | Path, what: str = "") -> Iterator[None]:
    """Turn an `OSError` in the block into an `InputError`.

    Raises:
        InputError: names the file, what was read of it, and the next step.
    """
    try:
        yield
    except OSError as error:
        raise read_error(error, file, what) from error


@contextlib.contextmanager
def writing(file: str | Path, what: str = "") -> Iterator[None]:
    """Turn an `OSError` in the block into an `OutputError`.

    Raises:
        OutputError: names the file, what was written, and the next step.
    """
    try:
        yield
    except OSError as error:
        raise write_error(error, file, what) from error
