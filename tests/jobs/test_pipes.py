"""Texts and questions from pipes, which can be read once and by one process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ggsurgery.errors import FormatError
from ggsurgery.files.piped import kept

from .._command import environment
from .._tiny import MODEL, SEARCH_TEXT

COMMANDS = {
    "scan": ("scan", MODEL, "--windows", 1, "--json"),
    "prune-depth": ("prune-depth", "--layers", 1, "--by", "influence", "--windows", 1, "--json"),
    "search": ("search", MODEL, "--study", "s", "--budget", 2, "--windows", 1, "--json"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_candidates_are_measured_on_a_text_from_a_pipe(tmp_path: Path, name: str) -> None:
    words = [*COMMANDS[name], "--text", "/dev/stdin", "-c", 64, "-t", 1]
    words += [MODEL, tmp_path / "out.gguf"] if name == "prune-depth" else []
    text = SEARCH_TEXT.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "ggsurgery", *map(str, words)],
        input=text,
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=environment() | {"XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)["text"]
    assert found == {"file": "stdin", "sha256": hashlib.sha256(text).hexdigest()}


def test_a_file_stays_where_it_is_and_a_device_is_refused(tmp_path: Path) -> None:
    assert kept(SEARCH_TEXT) == SEARCH_TEXT
    assert kept(tmp_path / "none") == tmp_path / "none"
    with pytest.raises(FormatError, match="a device"):
        kept("/dev/zero")
