"""Killed, stopped, out of room: the inputs stay, and no half file stands under OUT's name."""

from __future__ import annotations

import hashlib
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ggsurgery.files.temporary import MARK

from .._command import command, environment, error_line, heed_signals, run, start
from .._gguf import big_llama
from .._mount import tmpfs

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """192 MiB, so that writing takes a moment."""
    return big_llama(tmp_path_factory.mktemp("model") / "in.gguf", 6, 32 * MIB)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(f".*{MARK}*"))


def wait_for_writing(process: subprocess.Popen[str], folder: Path) -> None:
    while process.poll() is None and not leftovers(folder):
        time.sleep(0.001)


def test_kill_9_at_any_moment(tmp_path, model):
    rng, source_sum = random.Random(0), digest(model)
    whole = digest_of_a_whole_run(tmp_path, model)
    out, caught = tmp_path / "out.gguf", 0
    for number in range(10):
        process = start("delete", "--layer", "1", model, out)
        if number < 8:  # most of them while the data is written
            wait_for_writing(process, tmp_path)
            time.sleep(rng.uniform(0, 0.06))
        else:
            time.sleep(rng.uniform(0, 1.0))
        process.kill()
        process.communicate()
        caught += bool(leftovers(tmp_path))
        if out.exists():
            assert digest(out) == whole
            out.unlink()
        assert len(leftovers(tmp_path)) <= 1, "the run before was not cleaned up"
    assert caught, "no kill met a run that was writing"
    run("delete", "--layer", "1", model, out)
    assert digest(out) == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "whole.gguf"]
    assert digest(model) == source_sum


def digest_of_a_whole_run(folder: Path, model: Path) -> str:
    run("delete", "--layer", "1", model, folder / "whole.gguf")
    return digest(folder / "whole.gguf")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_stopped_while_writing(tmp_path, model, number, code):
    out, stopped = tmp_path / "out.gguf", 0
    for wait in (0, 0.01, 0.02, 0.04) * 5:  # on a busy machine most signals come too late
        if stopped == 2:
            break
        process = start("delete", "--layer", "1", model, out)
        wait_for_writing(process, tmp_path)
        time.sleep(wait)
        process.send_signal(number)
        _, errors = process.communicate()
        assert leftovers(tmp_path) == []
        if process.returncode == 0:  # the signal came too late
            out.unlink()
            continue
        stopped += 1
        assert process.returncode == code
        assert errors.strip() == (
            "ggsurgery: interrupted; inputs untouched, nothing half-written left behind"
        )
        assert not out.exists()
    assert stopped, "no signal met a run that was writing"


LOSING = """
import ctypes, os, sys, threading, time
from ggsurgery import cli

start = threading.Thread.start

def slow_start(thread):  # on a busy machine a thread starts late, or its caller goes on late
    start(thread)
    time.sleep({late})

threading.Thread.start = slow_start

class Thing:
    def __del__(self):
        os.kill(os.getpid(), {number})

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), {number})

def work(**_):
    {where}
    time.sleep(30)
    print("went on")

cli.cli.main = work
cli.main([])
"""


@pytest.mark.parametrize("late", [0, 0.5])
@pytest.mark.parametrize("where", ["Thing()", "callback()"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_where_python_drops_exceptions(where, number, code, late):
    """In a destructor, such as a finished bar's, or in a C library's callback; at once."""
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LOSING.format(number=int(number), where=where, late=late)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=heed_signals,
    )
    assert time.monotonic() - before < 30, "the signal did not end the sleep"
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr == (
        "ggsurgery: interrupted; inputs untouched, nothing half-written left behind\n"
    )


def test_an_old_output_survives_an_interrupted_force(tmp_path, model):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    process = start("delete", "--layer", "1", "--force", model, out)
    wait_for_writing(process, tmp_path)
    process.kill()
    process.communicate()
    assert out.read_bytes() == b"old" or out.stat().st_size > 100 * MIB


def test_the_disk_runs_full_while_writing(tmp_path):
    """The room is checked before; here another program takes it in between."""
    source = big_llama(tmp_path / "in.gguf", 4, MIB)
    code = (
        "import shutil, sys, collections\n"
        "usage = collections.namedtuple('usage', 'total used free')\n"
        "shutil.disk_usage = lambda _: usage(1 << 40, 0, 1 << 40)\n"
        "from ggsurgery.cli import main\n"
        "main(sys.argv[1:])"
    )
    with tmpfs(tmp_path, "size=2m") as disk:
        arguments = command("delete", "--layer", "1", source, disk / "out.gguf")
        done = subprocess.run(
            [arguments[0], "-c", code, *arguments[3:]],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert (
            "out.gguf: the disk ran full while writing; nothing was left behind. Free"
            in done.stderr
        )
        assert len(done.stderr.splitlines()) == 1
        assert list(disk.iterdir()) == []


def test_no_room_is_seen_before_writing(tmp_path):
    source = big_llama(tmp_path / "in.gguf", 4, MIB)
    with tmpfs(tmp_path, "size=2m") as disk:
        line = error_line("delete", "--layer", "1", source, disk / "out.gguf")
        assert "not enough room on the disk: expected 3,254,336 bytes, found 2,097,152" in line
        assert list(disk.iterdir()) == []


def test_a_limit_on_the_file_size(tmp_path):
    source = big_llama(tmp_path / "in.gguf", 4, MIB)
    done = subprocess.run(
        command("delete", "--layer", "1", source, tmp_path / "out.gguf"),
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB)),
        check=False,
    )
    assert done.returncode == 1
    assert "out.gguf: the file grew larger than allowed here; nothing was left" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf"]


def test_a_read_only_disk(tmp_path):
    source = big_llama(tmp_path / "in.gguf", 2, MIB)
    with tmpfs(tmp_path, "ro") as disk:
        line = error_line("delete", "--layer", "1", source, disk / "out.gguf")
        assert line == f"{disk}: the output's folder is not writable"
