"""Two workers on a real PostgreSQL server, one of them killed with -9 in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests._needs import ROOT, needs_package
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT
from tests.find.search._postgres import server

N_SINGLES = N_LAYERS + (N_LAYERS - 1) + (N_LAYERS - 2) + (N_LAYERS - 3)  # delete; swap by 1, 2, 3


def start(url: str, cache: Path) -> subprocess.Popen[bytes]:
    arguments = [
        "search",
        MODEL,
        "--study",
        "shared",
        "--space",
        "delete,swap",
        "--budget",
        "500",
        "--storage",
        url,
        "--text",
        SEARCH_TEXT,
        "--ctx",
        "256",
        "--windows",
        "8",
        "--threads",
        "1",
        "--heartbeat",
        "1",
    ]
    environment = {**os.environ, "GGSURGERY_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "ggsurgery", *map(str, arguments)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finished(cache: Path) -> list[str]:
    """Digests that a worker has measured, from its own journal."""
    paths = list((cache / "studies").glob("shared-*.jsonl"))
    if not paths:
        return []
    lines = paths[0].read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return [entry["digest"] for entry in entries if "digest" in entry]


def trials(url: str) -> list[Any]:
    import optuna

    from ggsurgery.find.search.storage import close_storage, open_storage

    storage = open_storage(url, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.load_study(study_name="shared", storage=storage).get_trials()
    close_storage(storage)
    return found  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_killed_worker_gives_its_candidate_back(tmp_path: Path) -> None:
    optuna = needs_package("optuna", extra="search")
    needs_package("psycopg", extra="search")
    with server(tmp_path / "pg") as url:
        caches = [tmp_path / "a", tmp_path / "b"]
        doomed = start(url, caches[0])
        try:
            wait_until(lambda: len(finished(caches[0])) >= 3, doomed)
            other = start(url, caches[1])
            try:
                wait_until(lambda: len(finished(caches[1])) >= 2, other)
                os.killpg(doomed.pid, signal.SIGKILL)
                doomed.communicate()  # closes its pipes, too
                before = finished(caches[0])
                _, errors = other.communicate(timeout=400)
                assert other.returncode == 0, errors.decode()
            finally:
                if other.poll() is None:
                    os.killpg(other.pid, signal.SIGKILL)
        finally:
            if doomed.poll() is None:
                os.killpg(doomed.pid, signal.SIGKILL)
        found = trials(url)
    states = optuna.trial.TrialState
    done = [t for t in found if t.state == states.COMPLETE and "same_as" not in t.user_attrs]
    digests = [t.user_attrs["digest"] for t in done]
    assert len(digests) == len(set(digests)) == N_SINGLES  # nothing lost, nothing told twice
    assert not [t for t in found if t.state in (states.RUNNING, states.WAITING)]
    ours, theirs = before, finished(caches[1])
    assert len(ours) >= 3 and len(theirs) >= 2  # both took part
    killed = [t.user_attrs.get("digest") for t in found if t.state == states.FAIL]
    assert len(killed) <= 1
    assert set(ours) & set(theirs) <= set(killed)  # measured twice: at most the killed one
    assert set(ours) | set(theirs) == set(digests)


def wait_until(condition: Any, process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read().decode())
        time.sleep(0.05)
