"""Run the command line: in a process of its own as a user does, or quickly in this one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggsurgery.cli import main

from ._needs import ROOT


def environment() -> dict[str, str]:
    """The environment with this source tree first, also when another folder is current."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p), "COLUMNS": "120"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ggsurgery", *map(str, arguments)]


def heed_signals() -> None:
    """For a child: a runner in the background (nohup, &) leaves signals ignored to it."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def start(*arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_signals,
    )


def run(
    *arguments: object, cwd: Path | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run to the end and check the exit code; never a traceback."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@dataclass(frozen=True)
class Said:
    """What a command printed."""

    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*arguments: object, code: int = 0) -> Said:
    """The command line in this process: arguments in, exit code checked, what it said out."""
    out, err = io.StringIO(), io.StringIO()
    names = ("SIGTERM", "SIGHUP")
    handlers = {n: signal.getsignal(getattr(signal, n)) for n in names}
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(a) for a in arguments])
    except SystemExit as done:
        found = done.code or 0
    finally:
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)
    said = Said(out.getvalue(), err.getvalue())
    assert found == code, f"exit code {found}: {said.out}{said.err}"
    return said


def error_line(*arguments: object) -> str:
    """The one line of a refused command (exit code 1), without the program's name."""
    said = call(*arguments, code=1)
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert said.out == ""
    assert lines[0].startswith("ggsurgery: error: ")
    return lines[0].removeprefix("ggsurgery: error: ")
