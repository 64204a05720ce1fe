"""Small file systems of their own: full ones, read-only ones, ones that share extents."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ._needs import NEEDS_ROOT, missing, needs_root


@contextlib.contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs at `folder/mounted`, such as `size=1m` or `ro`."""
    with _mounted(["mount", "-t", "tmpfs", "-o", options, "tmpfs"], folder) as place:
        yield place


@contextlib.contextmanager
def xfs(folder: Path) -> Iterator[Path]:
    """An XFS of 400 MB that shares extents, in a sparse file behind a loop device."""
    if shutil.which("mkfs.xfs") is None:
        missing("mkfs.xfs (Debian: xfsprogs), to make a file system with reflinks")
    image = folder / "xfs.img"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    with _mounted(["mount", "-o", "loop", image], folder) as place:
        yield place


@contextlib.contextmanager
def _mounted(command: list[str | Path], folder: Path) -> Iterator[Path]:
    needs_root("to mount a file system")
    place = folder / "mounted"
    place.mkdir()
    done = subprocess.run([*command, place], capture_output=True, text=True, check=False)
    if done.returncode:  # a container's root may not mount, or has no loop devices
        pytest.skip(f"{NEEDS_ROOT} that may mount a file system: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
