"""Atomic output files: a file appears complete or not at all.

The content goes to a sibling `.NAME.ggsurgery-tmp-XXXXXXXX`, which is renamed when complete. The
next run in the same folder removes what a killed run leaves behind (`temporary`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import OutputError
from . import temporary
from .shard_names import siblings
from .system_errors import write_error, writing


def check_output(
    out: Path, inputs: Sequence[Path] = (), *, force: bool = False, nbytes: int = 0
) -> None:
    """Check an output path before any work is done for it.

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
        raise OutputError("the output is not a regular file", file=out, hint="Name another output.")
    if (out.exists() or out.is_symlink()) and not force:
        raise OutputError(
            "the output exists", file=out, hint="Name another file, or replace it with `force`."
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
def atomic_path(
    out: Path, *, inputs: Sequence[Path] = (), force: bool = False, sync: bool = False
) -> Iterator[Path]:
    """A temporary path beside `out` that is renamed to it if the block succeeds.

    On any error, Ctrl-C included, the temporary file is removed and `out` stays as it was.
    With `sync`, the data is on the disk before the file is renamed.

    Args:
        inputs: files whose content goes into the output: who may not read one of them may not
            read the output either. A file that is replaced counts as one.

    Raises:
        OutputError: the folder cannot be written, or the disk ran full.

    Example:
        >>> with atomic_path(Path("out.gguf")) as path:  # doctest: +SKIP
        ...     path.write_bytes(b"GGUF")
    """
    temporary.sweep(out.parent)
    path, descriptor = out, -1
    try:
        while True:
            path = temporary.beside(out)
            temporary.enter(path)
            with writing(out):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                tighten(descriptor, [*inputs, out])
            # Waits if a cleanup took the lock first; some network disks have no locks.
            temporary.hold(descriptor, wait=True)
            if path.exists():
                break
            os.close(descriptor)  # another run swept it between its creation and its lock
            temporary.remove(path)
        yield path
        if sync:
            os.fsync(descriptor)
        _rename(path, out, force)
        if sync:
            _sync_folder(out.parent)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (path, out):
            raise  # of another file
        raise write_error(error, out) from error
    finally:
        if path is not out:
            temporary.remove(path)
        if descriptor >= 0:
            os.close(descriptor)


def tighten(descriptor: int, inputs: Sequence[Path]) -> None:
    """Remove permissions from an open output that one of the inputs does not have."""
    mode = os.fstat(descriptor).st_mode & 0o777
    allowed = mode
    for path in (shard for one in inputs for shard in siblings(one)):
        with contextlib.suppress(OSError):
            allowed &= path.stat().st_mode | 0o600
    if allowed != mode and hasattr(os, "fchmod"):
        os.fchmod(descriptor, allowed)


def _rename(temporary: Path, out: Path, force: bool) -> None:
    if force:
        temporary.replace(out)
        return
    try:
        os.link(temporary, out)  # unlike rename, fails if the name exists by now
    except FileExistsError:
        raise OutputError(
            "the output has appeared while it was being made",
            file=out,
            hint="Replace it with `force`.",
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
