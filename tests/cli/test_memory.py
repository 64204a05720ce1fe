"""Memory does not grow with the file: 16 GB of model, under 200 MB of memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .._command import command, environment
from .._gguf import big_llama

GIB = 1 << 30


# A process of its own in between: Linux lets the peak of the caller (this test run) live on
# in the memory figure of what it starts.
MEASURE = """
import os, subprocess, sys
done = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(done.pid, 0)
print("peak", os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def peak_mb(*arguments: object, code: int = 0) -> float:
    """Peak resident memory of one command, in MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command(*arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    _, exit_code, peak = done.stdout.splitlines()[-1].split()
    assert int(exit_code) == code, done.stderr
    return int(peak) * 1.024e-3  # Linux counts KiB


@pytest.mark.slow
def test_16_gb(tmp_path):
    model = big_llama(tmp_path / "in.gguf", 8, 2 * GIB, sparse=True)
    out = tmp_path / "out.gguf"
    assert model.stat().st_size > 16e9
    assert peak_mb("delete", "--layer", "1", model, out) < 200
    assert out.stat().st_size > 14e9
    assert peak_mb("inspect", out) < 200
    assert peak_mb("verify", out) < 200


@pytest.mark.slow
def test_dense_data_is_copied_and_compared_in_little_memory(tmp_path):
    model = big_llama(tmp_path / "in.gguf", 2, 250 << 20)
    out = tmp_path / "out.gguf"
    assert peak_mb("swap", "--layers", "0,1", model, out) < 200
    assert peak_mb("diff", model, out, code=1) < 200
    assert peak_mb("replay", out, model, tmp_path / "new.gguf") < 200
