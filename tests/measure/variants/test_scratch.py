"""Scratch folders go away with their process, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggsurgery.files import temporary
from ggsurgery.files.temporary import PREFIX, sweep
from ggsurgery.measure.variants.scratch import Scratch
from tests._needs import ROOT

KILLED = """
import sys, time
from pathlib import Path
from ggsurgery.files import temporary
from ggsurgery.measure.variants.scratch import Scratch
temporary.MEMORY = Path(sys.argv[1])
made = Scratch(0)
made.file.write_bytes(bytes(1000))
print(made.folder, flush=True)
time.sleep(60)
"""


def test_the_next_process_removes_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "MEMORY", tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        assert left.parent == tmp_path and left.name.startswith(PREFIX)
        with Scratch(0) as ours:  # the other one lives: its folder stays
            assert (left / "candidate.gguf").exists()
            process.send_signal(signal.SIGKILL)
            process.wait()
            (tmp_path / f"{PREFIX}new").mkdir()  # killed between making it and its lock
            (tmp_path / "ggsurgery-mine").mkdir()  # somebody's own
            (tmp_path / f"{PREFIX}link").symlink_to(ours.folder)
            assert set(sweep(tmp_path)) == {left, tmp_path / f"{PREFIX}new"}
            assert not left.exists() and ours.folder.exists()
        assert {p.name for p in tmp_path.iterdir()} == {"ggsurgery-mine", f"{PREFIX}link"}
