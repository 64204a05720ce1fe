"""A place of its own for a command that is killed: folders, and what must be left in them."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ggsurgery.files.temporary import MARK, PREFIX
from ggsurgery.ggufio.header import read_header

from .._command import command, environment, heed_signals
from .._needs import needs_program, needs_root

#: `mount --bind` in a mount namespace of the command's own: what it leaves in memory can be seen,
#: and nobody else's scratch folders are in the way.
BOUND = 'mount --bind "$0" /dev/shm && exec "$@"'


@dataclass(frozen=True)
class Setting:
    """Folders: `inputs` must survive, `out` holds outputs, `shm` is the command's /dev/shm."""

    inputs: Path
    out: Path
    shm: Path
    tmp: Path
    cache: Path

    @classmethod
    def make(cls, folder: Path, inputs: Path, cache: Path) -> Setting:
        needs_root("for a /dev/shm of the command's own")
        needs_program("unshare")
        made = cls(inputs, folder / "out", folder / "shm", folder / "tmp", cache)
        for path in (made.out, made.shm, made.tmp):
            path.mkdir()
        return made

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        own = {"TMPDIR": str(self.tmp), "GGSURGERY_CACHE": str(self.cache)}
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", BOUND, self.shm, *command(*arguments)],
            cwd=self.out,
            env=environment() | own,
            text=True,
            preexec_fn=heed_signals,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str) -> None:
        process = self.start(*arguments)
        _, errors = process.communicate()
        assert process.returncode == 0, errors

    def busy(self) -> bool:
        """Whether something temporary is there: the work has begun."""
        return bool(self.temporary())

    def temporary(self) -> list[str]:
        """Everything unfinished: all of shm and tmp, and marked names among the outputs."""
        places = [*self.shm.iterdir(), *self.tmp.iterdir()]
        marked = [p for p in self.out.rglob("*") if MARK in p.name or p.name.startswith(PREFIX)]
        return sorted(str(p) for p in (*places, *marked))

    def processes(self) -> list[int]:
        """Living processes whose temporary folder is ours."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    own = f"TMPDIR={self.tmp}".encode() in (entry / "environ").read_bytes()
                except OSError:
                    continue
                if own:
                    found.append(int(entry.name))
        return found

    def wait_for_the_end(self, seconds: float = 30) -> None:
        """Children go a moment after a parent that was killed."""
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                pytest.fail(f"processes outlive their parent: {self.processes()}")
            time.sleep(0.02)

    def check_outputs(self) -> None:
        """Whatever has an output's name is whole."""
        for path in self.out.rglob("*.gguf"):
            if MARK not in str(path):
                read_header(path)
        for bundle in self.out.glob("*/manifest.json"):
            if MARK not in str(bundle):
                assert (bundle.parent / "SHA256SUMS").is_file()


def kill_at(
    setting: Setting, arguments: list[str], number: signal.Signals, wait: float, *, begun: bool
) -> tuple[int, str]:
    """Start a command and kill it `wait` seconds later (`begun`: after its first file).

    Returns:
        The exit code, and what it printed on stderr.
    """
    process = setting.start(*arguments)
    start = time.monotonic()
    while begun and process.poll() is None and not setting.busy():
        if time.monotonic() - start > 60:
            break
        time.sleep(0.001)
    time.sleep(wait)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    setting.wait_for_the_end()
    return process.returncode, errors
