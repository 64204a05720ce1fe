"""Colours only where the terminal and the user want them (no-color.org)."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from .._command import command, environment
from .._gguf import tiny_llama


@pytest.mark.parametrize(
    ("setting", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
    ids=["terminal", "empty NO_COLOR", "NO_COLOR", "dumb"],
)
def test_a_warning_on_a_terminal(tmp_path, setting, coloured):
    source = tiny_llama(tmp_path / "in.gguf", 4)
    arguments = ("delete", "--layer", "1", "--drop-mtp", "--dry-run", source, tmp_path / "out.gguf")
    given = {k: v for k, v in environment().items() if k != "NO_COLOR"} | setting
    ours, theirs = pty.openpty()
    done = subprocess.run(
        command(*arguments),
        env=given,
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        check=True,
    )
    os.close(theirs)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "--drop-mtp: the file has no layers behind the trunk" in text
    assert ("\x1b[" in text) is coloured
