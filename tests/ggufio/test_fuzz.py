"""A few thousand mutated headers; see tests/fuzz/headers.py for a longer run."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from ..fuzz.against_ggml import CLASSES
from ..fuzz.headers import exercise, run, seeds


def test_the_seeds_are_whole(tmp_path):
    for number, data in enumerate(seeds()):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(data)
        assert exercise(path) == "used"


@pytest.mark.parametrize("seed", range(3))
def test_mutants(tmp_path, seed):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = run(750, seed, tmp_path)
    assert outcomes["refused"] > 150
    assert outcomes["used"] > 100
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"{grown} KB more memory for files of 3 KB"


@pytest.mark.parametrize("seed", range(2))
def test_verdicts_are_those_of_ggml(seed):
    """In a child: a header that makes ggml abort must not take the tests with it."""
    command = [sys.executable, "-m", "tests.fuzz.against_ggml", "--count", "1500"]
    done = subprocess.run(
        [*command, "--seed", str(seed)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == 1500
    assert outcomes["both take it"] > 300
    assert outcomes["both refuse it"] > 500
    listed = {f"only {side}: {begin}" for side, begins in CLASSES.items() for begin in begins}
    assert set(outcomes) - {"both take it", "both refuse it"} <= listed
