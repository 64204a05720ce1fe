"""A few thousand mutated headers; see tests/fuzz/headers.py for a longer run."""

from __future__ import annotations

import resource

import pytest

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
