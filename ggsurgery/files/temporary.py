"""Everything temporary: scratch folders, and files on their way to their names.

Each is registered in a table before it is created, and locked (flock) while its process lives. So
it is removed however the process ends:

normal end, error     the `with` block that made it removes it
signal                between any two instructions: `remove_all`, also at exit
crash of a worker     the worker has announced it; the parent removes it
SIGKILL, power cut    `sweep`, in the next command, removes what no process holds a lock on
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import OutputError
from .closing import Closing

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock; leftovers stay there
    fcntl = None  # type: ignore[assignment]

#: Part of the names of files and folders that are renamed to an output when complete.
MARK = ".ggsurgery-tmp-"

#: Begins the names of scratch folders.
PREFIX = "ggsurgery-scratch-"

#: Where Linux keeps files in memory.
MEMORY = Path("/dev/shm")

#: Bytes of an output's name in its temporary name; a name has at most 255.
_STEM_BYTES = 200

_entered: dict[Path, int] = {}  # path → the process that registered it


class _Listener:
    """A second keeper of the table: in a worker, its parent.

    Called with (path, True) before something is created, (path, False) when it is removed.
    """

    announce: Callable[[Path, bool], object] | None = None


listener = _Listener()


def enter(path: Path) -> None:
    """Register `path`, which this process is about to create, for removal at its end."""
    _entered[path] = os.getpid()
    if listener.announce is not None:
        listener.announce(path, True)


def remove(path: Path) -> None:
    """Remove a registered file or folder, if it still exists, and its entry."""
    _delete(path)
    forget(path)


def forget(path: Path) -> None:
    """Remove the entry of something that no longer exists."""
    _entered.pop(path, None)
    if listener.announce is not None:
        listener.announce(path, False)


def remove_all() -> None:
    """Remove everything that this process has registered and not removed."""
    for path, pid in list(_entered.items()):
        if pid == os.getpid():  # a forked child does not remove what its parent works on
            _delete(path)
            _entered.pop(path, None)


atexit.register(remove_all)


def _delete(path: Path) -> None:
    try:
        path.unlink()
    except (IsADirectoryError, PermissionError):  # macOS: EPERM for a folder
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # removed or renamed, or the disk was removed


def beside(out: Path) -> Path:
    """A new temporary name beside an output."""
    stem = os.fsencode(out.name)[:_STEM_BYTES].decode("utf-8", "ignore")
    return out.with_name(f".{stem}{MARK}{secrets.token_hex(4)}")


def lock(path: Path, *, folder: bool = False, wait: bool = False) -> int | None:
    """A descriptor that holds the lock on a file or folder.

    None if another process holds it, or if the system or the disk has no such locks.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR
    descriptor = os.open(path, flags | os.O_NOFOLLOW)
    if fcntl is not None and hold(descriptor, wait=wait):
        return descriptor
    os.close(descriptor)
    return None


def hold(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file; False if another process has it or locks are not supported."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


class Folder(Closing):
    """A folder that is removed with its contents on `close`, or at the end of its process.

    Args:
        place: where; None takes the system's folder for temporary files.
        purpose: a word for its name.
        out: the folder that this one is to become: it is made beside it, under a hidden name
            and with the rights that the user's umask allows.

    Raises:
        OutputError: it cannot be made.
    """

    def __init__(
        self, purpose: str = "", *, place: Path | None = None, out: Path | None = None
    ) -> None:
        self._lock: int | None = None
        where = Path(tempfile.gettempdir()) if place is None else place
        for folder in {where, Path(tempfile.gettempdir()), MEMORY} if out is None else {out.parent}:
            sweep(folder)
        stem = f"{PREFIX}{purpose}{'-' if purpose else ''}"
        while True:
            self.path = where / f"{stem}{secrets.token_hex(6)}" if out is None else beside(out)
            enter(self.path)
            try:
                self.path.mkdir(mode=0o700 if out is None else 0o777)
            except OSError as error:
                self.close()
                raise OutputError(
                    f"cannot make a folder: {error.strerror or error}",
                    file=self.path.parent,
                    hint="Free some room or name another folder, for scratch files with TMPDIR.",
                ) from error
            with contextlib.suppress(OSError):  # Windows, or swept just now
                self._lock = lock(self.path, folder=True, wait=True)
            if self.path.exists():
                return
            self.close()  # another process swept it between its making and its lock

    def close(self) -> None:
        remove(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return self.path


def sweep_scratch() -> None:
    """Remove the scratch folders of dead processes, in memory and among temporary files."""
    for folder in (MEMORY, Path(tempfile.gettempdir())):
        sweep(folder)


def sweep(folder: Path) -> list[Path]:
    """Remove what dead processes of this user left in a folder; returns what it was."""
    removed: list[Path] = []
    if fcntl is None:
        return removed
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if _is_ours(e.name)]
    except OSError:
        return removed
    for path in (Path(folder) / name for name in names):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid != os.geteuid():
                continue
            held = lock(path, folder=stat.S_ISDIR(status.st_mode))
            if held is None:  # its process lives
                continue
            try:
                _delete(path)
            finally:
                os.close(held)
            removed.append(path)
    return removed


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) or (name.startswith(".") and MARK in name)
