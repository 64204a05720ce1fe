"""A child process that runs a function of this package and talks in frames.

    parent → stdin of the child     frame, frame …       a frame: length u64, then the bytes
    child → stdout, before fd 1 is redirected to stderr

The child is a fresh Python: it does not import the caller's `__main__`. It ends when its
stdin ends, so that none outlives its parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

_LENGTH = struct.Struct("<Q")


class Child:
    """A running child of the parent's side.

    Args:
        module, function: what the child runs: a function without arguments that calls `streams`.
        stderr: where its noise goes; see `subprocess.Popen`.
    """

    def __init__(self, module: str, function: str, stderr: Any = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import {function}; {function}()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.questions: IO[bytes] = self.process.stdin
        self.answers: IO[bytes] = self.process.stdout
        self.late = False

    @contextlib.contextmanager
    def deadline(self, seconds: float | None) -> Iterator[None]:
        """Kill the child, and set `late`, if the block takes longer."""
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self.late = True
        self.process.kill()

    def close(self, *, kill: bool = False) -> int:
        """End the child; returns its exit status, negative for a signal."""
        self.answers.close()
        return self.end(kill=kill)

    def end(self, *, kill: bool = False) -> int:
        """End the child, and leave its last answers to be read."""
        if kill:
            self.process.kill()
        with contextlib.suppress(OSError):  # what a dead child did not read any more
            self.questions.close()
        try:
            return self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # a child that hangs while it exits
            self.process.kill()
            return self.process.wait()


def send(stream: IO[bytes], data: bytes) -> None:
    """Write one frame."""
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes], limit: int | None = None) -> bytes:
    """Read one frame.

    Raises:
        EOFError: the other side has ended, or its frame is longer than `limit` bytes.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    if limit is not None and size > limit:
        raise EOFError
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def streams() -> tuple[IO[bytes], IO[bytes]]:
    """In the child: what the parent asks, and where the answers go; prints go to stderr.

    Ctrl-C is left to the parent, which ends the child; a crash leaves no core.
    """
    limit_resource("RLIMIT_CORE", 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


def limit_resource(name: str, soft: int) -> None:
    """Lower a limit of this process, where the system has it (Windows has none)."""
    with contextlib.suppress(ImportError, ValueError, OSError, AttributeError):
        import resource

        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (soft if hard < 0 else min(soft, hard), hard))
