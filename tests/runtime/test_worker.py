"""Crashes become errors; everything else passes through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ggsurgery.errors import EngineError, FormatError
from ggsurgery.runtime import worker
from tests._command import heed_signals


def crash(path: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def abort_with_words(path: str) -> None:
    os.write(2, b"ggml.c:12: GGML_ASSERT(x > 0) failed\n")
    os.abort()


def refuse(path: str) -> None:
    raise FormatError("wrong magic", file=path, expected="GGUF", found="PK")


def count(n: int, progress: Callable[[int, int], None]) -> int:
    for i in range(n):
        progress(i + 1, n)
    return os.getpid()


def sleep(path: str, seconds: float, mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(seconds)


def shout(text: str) -> str:
    os.write(1, b"noise on stdout\n")
    sys.stdout.write("more noise\n")
    return text.upper()


def test_results_and_noise() -> None:
    assert worker.run(shout, "quiet") == "QUIET"


def test_a_crash_names_file_and_signal() -> None:
    with pytest.raises(EngineError, match=r"odd\.gguf: llama\.cpp crashed \(SIGSEGV\)"):
        worker.run(crash, "odd.gguf")


def test_a_failed_assertion_is_quoted() -> None:
    with pytest.raises(EngineError, match=r"\(SIGABRT\), saying: .*GGML_ASSERT\(x > 0\)"):
        worker.run(abort_with_words, "odd.gguf")


def test_errors_keep_their_class_and_message() -> None:
    with pytest.raises(FormatError, match=r"a\.gguf: wrong magic: expected GGUF, found PK"):
        worker.run(refuse, "a.gguf")


def test_progress_arrives_and_ends_complete() -> None:
    seen: list[tuple[int, int]] = []
    child = worker.run(count, 500, progress=lambda a, b: seen.append((a, b)))
    assert child != os.getpid()
    assert seen[-1] == (500, 500)
    assert len(seen) < 500  # thinned out


def test_timeout_ends_the_child(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with pytest.raises(EngineError, match=r"slow\.gguf: took longer than 6 s"):
        worker.run(sleep, "slow.gguf", 60, str(mark), timeout=6)
    assert _gone(int(mark.read_text()))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_child_goes_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    mark = tmp_path / "pid"
    script = (
        "from ggsurgery.runtime import worker\n"
        "from tests.runtime.test_worker import sleep\n"
        f"worker.run(sleep, 'x', 60, {str(mark)!r})\n"  # no __main__ guard: none is needed
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_signals,
    )
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.send_signal(how)
    assert parent.wait(30) != 0
    assert _gone(int(mark.read_text()))


def _gone(pid: int) -> bool:
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
