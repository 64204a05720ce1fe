"""Small file systems of their own: full ones, read-only ones, ones that share extents."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ._needs import missing


@contextlib.contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs at `folder/mounted`, such as `size=1m` or `ro`; needs root."""
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
    with _mounted(["mount", "-o", "loop", image], folder, optional=True) as place:
        yield place


@contextlib.contextmanager
def _mounted(command: list[str | Path], folder: Path, optional: bool = False) -> Iterator[Path]:
    place = folder / "mounted"
    place.mkdir()
    refused = "only root can mount" if os.geteuid() != 0 else None
    if refused is None:
        done = subprocess.run([*command, place], capture_output=True, text=True, check=False)
        refused = done.stderr.strip() if done.returncode else None
    if refused is not None:
        if optional:
            pytest.skip(f"no such file system can be mounted here: {refused}")
        missing(f"the right to mount a file system ({refused})")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
