"""Files that appear whole or not at all.

The content goes to a sibling `.NAME.ggsurgery-tmp-XXXXXXXX`, which is renamed when it is
whole. The writer holds a lock on its temporary file, so the next run tells the leftovers
of a killed run (no lock) from the work of a living one, and removes them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import OutputError
from .split import siblings

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock; leftovers stay there
    fcntl = None  # type: ignore[assignment]

MARK = ".ggsurgery-tmp-"

_FREE = "Free some room and run it again."
_NO_ROOM = {
    errno.ENOSPC: ("the disk ran full while writing", _FREE),
    errno.EDQUOT: ("the disk quota ran out while writing", _FREE),
    errno.EFBIG: ("the file grew larger than allowed here", "See ulimit -f, or use another disk."),
}


def check_output(
    out: Path, inputs: Sequence[Path] = (), *, force: bool = False, nbytes: int = 0
) -> None:
    """Refuse an output before any work is done for it.

    Args:
        out: the file to be written.
        inputs: files that must survive; `out` may be none of them (nor of their shards), also not
            through a link.
        force: whether an existing file may be replaced.
        nbytes: how large the output will be, 0 if unknown.

    Raises:
        OutputError: the output is an input, exists, its folder is missing or not writable,
            or the disk has not enough room.
    """
    for path in (shard for given in inputs for shard in siblings(given)):
        if out.exists() and path.exists() and out.samefile(path):
            raise OutputError(
                "input and output are the same file",
                file=out,
                hint="Name another output; inputs are never changed.",
            )
    if out.is_dir():
        raise OutputError("the output is a folder", file=out, expected="a file name")
    if out.exists() and not out.is_file():
        raise OutputError("the output is no regular file", file=out, hint="Name another output.")
    if (out.exists() or out.is_symlink()) and not force:
        raise OutputError(
            "the output exists", file=out, hint="Name another file, or replace it with --force."
        )
    folder = out.parent
    if not folder.is_dir():
        raise OutputError(
            "the output's folder does not exist",
            file=folder,
            hint=f"Create it with: mkdir -p {folder}",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError("the output's folder is not writable", file=folder)
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OutputError(
            "not enough room on the disk",
            file=out,
            expected=f"{nbytes:,} bytes",
            found=f"{free:,} bytes free",
            hint="Free some room or write to another disk.",
        )


@contextlib.contextmanager
def atomic_path(out: Path, *, force: bool = False, sync: bool = False) -> Iterator[Path]:
    """A temporary path beside `out` that takes its name when the block ends well.

    On any error, Ctrl-C included, the temporary file is removed and `out` stays as it was.
    With `sync`, the data reaches the disk before the name does.

    Raises:
        OutputError: the folder cannot be written, or the disk ran full.

    Example:
        >>> with atomic_path(Path("out.gguf")) as temporary:  # doctest: +SKIP
        ...     temporary.write_bytes(b"GGUF")
    """
    _remove_leftovers(out.parent)
    temporary, descriptor = _create(out)
    try:
        yield temporary
        if sync:
            os.fsync(descriptor)
        _rename(temporary, out, force)
        if sync:
            _sync_folder(out.parent)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        problem, hint = _NO_ROOM[error.errno]
        raise OutputError(f"{problem}; nothing was left behind", file=out, hint=hint) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        os.close(descriptor)


def _create(out: Path) -> tuple[Path, int]:
    stem = out.name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    while True:
        temporary = out.with_name(f".{stem}{MARK}{secrets.token_hex(4)}")
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise OutputError(error.strerror or str(error), file=out) from None
        if fcntl is not None:
            # Waits for a sweeper that took the lock first; some network disks have no locks.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, descriptor
        os.close(descriptor)  # another run swept it between its creation and its lock


def _rename(temporary: Path, out: Path, force: bool) -> None:
    if force:
        temporary.replace(out)
        return
    try:
        os.link(temporary, out)  # unlike rename, refuses a name that has appeared meanwhile
    except FileExistsError:
        raise OutputError(
            "the output has appeared while it was being made",
            file=out,
            hint="Replace it with --force.",
        ) from None
    except OSError:  # a file system without hard links
        if out.exists():
            raise OutputError("the output exists", file=out) from None
        temporary.replace(out)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    if fcntl is None or not folder.is_dir():
        return
    for path in folder.glob(f".*{MARK}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails: its writer lives
                path.unlink()
            finally:
                os.close(descriptor)
