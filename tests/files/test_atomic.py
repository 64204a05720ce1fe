"""Files that appear whole or not at all, and what is refused before anything is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from ggsurgery.errors import OutputError
from ggsurgery.files import temporary
from ggsurgery.files.atomic import atomic_path, check_output
from ggsurgery.files.temporary import MARK

from .._mount import tmpfs
from .._needs import ROOT


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("sync", [False, True])
def test_the_file_appears_at_the_end(tmp_path, sync):
    out = tmp_path / "out"
    with atomic_path(out, sync=sync) as temporary:
        temporary.write_bytes(b"whole")
        assert not out.exists()
        assert temporary.parent == tmp_path
    assert out.read_bytes() == b"whole"
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OutputError])
def test_nothing_appears_after_an_error(tmp_path, error):
    with pytest.raises(error), atomic_path(tmp_path / "out") as temporary:
        temporary.write_bytes(b"half")
        raise error("stop")
    assert names(tmp_path) == set()


def test_an_existing_file_survives_an_error_and_gives_way_to_force(tmp_path):
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with pytest.raises(ValueError, match="stop"), atomic_path(out, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise ValueError("stop")
    assert out.read_bytes() == b"old"
    with atomic_path(out, force=True) as temporary:
        temporary.write_bytes(b"new")
    assert out.read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False], ids=["with hard links", "without"])
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"has appeared|exists"), atomic_path(out) as temporary:
        temporary.write_bytes(b"ours")
        out.write_bytes(b"theirs")
    assert out.read_bytes() == b"theirs"
    assert names(tmp_path) == {"out"}


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", _no_links)
    with atomic_path(tmp_path / "out") as temporary:
        temporary.write_bytes(b"whole")
    assert (tmp_path / "out").read_bytes() == b"whole"
    assert names(tmp_path) == {"out"}


def _no_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_leftovers_of_a_dead_run_go_and_a_living_ones_stay(tmp_path):
    dead = tmp_path / f".dead{MARK}00000000"
    dead.write_bytes(b"half")
    with atomic_path(tmp_path / "one") as living:
        assert not dead.exists()
        with atomic_path(tmp_path / "two"):
            assert living.exists()
    assert names(tmp_path) == {"one", "two"}


def test_leftovers_of_a_living_process_stay(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ggsurgery.files.atomic import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t: print(t, flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "theirs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert other.stdout is not None
    temporary = Path(other.stdout.readline().strip())
    with atomic_path(tmp_path / "ours"):
        assert temporary.exists()
    other.communicate("")
    assert names(tmp_path) == {"ours", "theirs"}


@pytest.mark.parametrize("name", ["x" * 255, "漢" * 85, "a\nb", "-rf", "*"])
def test_unusual_names(tmp_path, name):
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_bytes(b"x")
    assert names(tmp_path) == {name}


def test_an_output_that_is_an_input(tmp_path):
    source = tmp_path / "in"
    source.write_bytes(b"x")
    (tmp_path / "symlink").symlink_to("in")
    (tmp_path / "hardlink").hardlink_to(source)
    (tmp_path / "folder").mkdir()
    for out in ("in", "symlink", "hardlink", "folder/../in"):
        for force in (False, True):
            with pytest.raises(OutputError, match="input and output are the same file"):
                check_output(tmp_path / out, [source], force=force)


def test_outputs_that_cannot_be(tmp_path):
    (tmp_path / "old").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken link").symlink_to("none")
    cases = {
        "broken link": r"broken link: the output exists\. .*`force`",
        "old": r"old: the output exists\. .*`force`",
        "pipe": "pipe: the output is not a regular file",
        "none/out": r"none: the output's folder does not exist\. Create it with: mkdir -p",
        ".": "the output is a folder",
    }
    for name, message in cases.items():
        with pytest.raises(OutputError, match=message):
            check_output(tmp_path / name)
    for name in ("pipe", "none/out", "."):
        with pytest.raises(OutputError):
            check_output(tmp_path / name, force=True)
    check_output(tmp_path / "old", force=True)


def test_no_room_is_seen_before_writing(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 1, 99))
    check_output(tmp_path / "out", nbytes=99)
    with pytest.raises(OutputError, match=r"not enough room.*expected 100 bytes, found 99 bytes"):
        check_output(tmp_path / "out", nbytes=100)


def test_a_full_disk(tmp_path):
    with tmpfs(tmp_path, "size=64k") as disk:
        full = pytest.raises(OutputError, match="out: the disk ran full while writing; nothing")
        with full, atomic_path(disk / "out") as temporary:
            temporary.write_bytes(bytes(100_000))
        assert names(disk) == set()


def test_a_read_only_disk(tmp_path):
    with tmpfs(tmp_path, "ro") as disk:
        with pytest.raises(OutputError, match="folder is not writable"):
            check_output(disk / "out")
        with (
            pytest.raises(
                OutputError, match="out: read-only file system while writing; nothing was left"
            ),
            atomic_path(disk / "out"),
        ):
            pass


def test_a_folder_without_the_right_to_write():
    assert "/: the output's folder is not writable" in as_nobody(lambda: check_output(Path("/out")))
    assert "/out: permission denied while writing" in as_nobody(
        lambda: atomic_path(Path("/out")).__enter__()
    )


def as_nobody(attempt: Callable[[], object]) -> str:
    """What an attempt raises in a child process without root's rights."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of numpy's, not ours
        child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            attempt()
        except OutputError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        return answer.read()


def test_the_sweep_needs_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary, "fcntl", None)
    other = tmp_path / f".x{MARK}00000000"
    other.write_bytes(b"perhaps alive")
    with atomic_path(tmp_path / "out"):
        pass
    assert other.exists()
