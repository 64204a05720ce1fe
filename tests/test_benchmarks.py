"""`make bench` can start each of its scripts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ._needs import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_starts(script, tmp_path):
    """From another folder and without the project on Python's path, as `make bench` runs it."""
    done = subprocess.run(
        [sys.executable, "-P", script, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script.name}")
