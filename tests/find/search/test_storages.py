"""Lost candidates in every storage: SQLite, a journal file, Optuna's gRPC proxy before SQLite."""

from __future__ import annotations

import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggsurgery.errors import GGSurgeryError
from ggsurgery.find.search import dead_workers
from ggsurgery.find.search import storage as storages
from ggsurgery.find.search.optimize import Budget, Work, run_worker
from ggsurgery.find.search.run import outcome
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.variants.measure import Measurer
from ggsurgery.plan.recipe import Recipe, step
from tests._needs import needs_package
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT

pytestmark = pytest.mark.slow

PROXY = """
import sys
from optuna.storages import get_storage, run_grpc_proxy_server
run_grpc_proxy_server(get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


@contextmanager
def proxy(database: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Optuna's own server on a free port; yields its URL and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-W", "ignore", "-c", PROXY, f"sqlite:///{database}", str(port)]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        try:
            from optuna.storages import GrpcStorageProxy

            GrpcStorageProxy(host="127.0.0.1", port=port).wait_server_ready(timeout=60)
            yield f"grpc://127.0.0.1:{port}", process
        finally:
            process.kill()


@pytest.fixture
def one(tmp_path: Path) -> Work:
    needs_package("optuna", extra="search")
    setup = Setup(MODEL, text=SEARCH_TEXT, n_ctx=64, n_windows=1, n_threads=1)
    return Work(
        "s",
        setup,
        str(tmp_path / "s.log"),
        tmp_path / "s.jsonl",
        ("delete",),
        1,
        Budget(count=500),
        heartbeat=1,
    )


def joined(work: Work) -> Any:
    """The study, as another program sees it."""
    storage = storages.open_storage(work.storage, 1)
    return storages.optuna().load_study(study_name=work.name, storage=storage)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sqlite", "journal", "grpc"])
def test_a_silent_workers_candidate_is_given_back(kind: str, one: Work, tmp_path: Path) -> None:
    if kind == "sqlite":  # `ask` alone leaves no heartbeat, as if killed just before the first
        give_back(replace(one, storage=str(tmp_path / "s.db")))
        return
    if kind == "journal":
        give_back(one)
        return
    needs_package("grpc", extra="search")
    with proxy(tmp_path / "behind.db") as (url, _):
        give_back(replace(one, storage=url))


def taken(one: Work) -> tuple[Any, Any, Any]:
    """Optuna's states, a study, and a trial that a worker took and is not heard of since."""
    run_worker(replace(one, budget=Budget(count=2)), "run")
    study = joined(one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return storages.optuna().trial.TrialState, study, study.ask()


def give_back(one: Work) -> None:
    states, _, lost = taken(one)
    run_worker(one, "again")
    trials = joined(one).get_trials()
    assert trials[lost.number].state == states.FAIL
    assert not [t for t in trials if t.state in (states.RUNNING, states.WAITING)]
    assert joined(one).metric_names == ["perplexity"]
    found = outcome(one)
    assert found.tried == N_LAYERS == len({r.digest for r in found.rows})


@pytest.mark.filterwarnings("ignore")
def test_a_candidate_that_failed_is_queued_again(
    one: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_workers, "MOMENT", 0.1)
    one = replace(one, storage=str(tmp_path / "s.db"))
    states, study, lost = taken(one)
    study.tell(lost, state=states.FAIL)  # the worker died before it queued it again
    run_worker(one, "again")
    again = [t for t in joined(one).get_trials() if t.system_attrs.get("retry_history")]
    assert [t.system_attrs["retry_history"] for t in again] == [[lost.number]]
    assert again[0].state == states.COMPLETE
    assert outcome(one).tried == N_LAYERS


@pytest.mark.filterwarnings("ignore")
def test_a_candidate_that_kills_its_workers_is_a_row(
    one: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_workers, "MOMENT", 0.1)
    one = replace(one, storage=str(tmp_path / "s.db"))
    states, study, lost = taken(one)
    lost.set_user_attr("digest", "0" * 64)
    lost.set_user_attr("recipe", Recipe((step("delete", layer="2"),)).to_json())
    lost.storage.set_trial_system_attr(lost._trial_id, "retry_history", [7, 8, 9])
    study.tell(lost, state=states.FAIL)
    run_worker(one, "again")
    found = outcome(one)
    assert [r.error for r in found.rows if r.error] == ["its worker died 4 times"]
    assert found.tried == N_LAYERS  # the others were measured


@pytest.mark.filterwarnings("ignore")
def test_a_proxy_that_goes_away_in_the_middle(
    one: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_package("grpc", extra="search")
    monkeypatch.setattr(storages, "PAUSES", (0.1, 0.1))
    measured: list[Any] = []
    real = Measurer.measure
    with proxy(tmp_path / "behind.db") as (url, process):

        def measure(self: Measurer, plan: Any, progress: Any = None) -> Any:
            measured.append(plan)
            if len(measured) == 3:
                process.kill()
                process.wait()
            return real(self, plan, progress)

        monkeypatch.setattr(Measurer, "measure", measure)
        with pytest.raises(GGSurgeryError, match=r"went away.*All 3 results .* are kept"):
            run_worker(replace(one, storage=url), "run")
    with proxy(tmp_path / "behind.db") as (url, _):  # it comes back, perhaps elsewhere
        run_worker(replace(one, storage=url), "later")
        assert outcome(replace(one, storage=url)).tried == N_LAYERS
    assert len(measured) == N_LAYERS == len({plan.digest for plan in measured})
