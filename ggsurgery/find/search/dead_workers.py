"""Give back the candidates of dead workers, where Optuna's heartbeat does not.

SQLite and PostgreSQL know by the heartbeat which workers are alive. Three cases are left:

- A journal file and a gRPC proxy have no heartbeat: a candidate that has been on its way for
  far longer than any was measured in counts as lost. Each worker times that by its own clock.
- A worker that dies between taking a candidate and its first sign of life leaves one that
  Optuna never calls stale, for it looks at trials with a heartbeat only.
- One that dies between calling a candidate failed and queueing it again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from .propose import SAME_AS
from .storage import RETRIES, optuna

#: How many times the longest measurement so far a candidate may take, without a heartbeat.
PATIENCE = 10.0
#: Seconds in which a living worker queues a failed candidate again.
MOMENT = 5.0


class Silence:
    """Watches the trials of one study.

    Args:
        least: seconds that a worker may be silent.
    """

    def __init__(self, study: Any, least: float) -> None:
        self.study, self.least = study, least
        self._since: dict[tuple[int, Any], float] = {}

    def give_back(self, trials: Sequence[Any]) -> int:
        """Queue lost trials again; returns how many are watched, on their way or to be queued."""
        states = optuna().trial.TrialState
        now = time.monotonic()
        silent = self._silent([t for t in trials if t.state == states.RUNNING])
        watched = [(t, self._limit(trials)) for t in silent]
        watched += [(t, MOMENT) for t in failed(trials) if not given_up(t)]
        self._since = {(key := (t.number, t.state)): self._since.get(key, now) for t, _ in watched}
        for trial, limit in watched:
            if now - self._since[trial.number, trial.state] > limit:
                queue_again(self.study, trial)
        return len(watched)

    def _limit(self, trials: Sequence[Any]) -> float:
        if has_heartbeat(self.study):
            return self.least
        seconds = (t.user_attrs.get("seconds") for t in trials)
        longest = max((float(s) for s in seconds if isinstance(s, int | float)), default=0.0)
        return max(self.least, PATIENCE * longest)

    def _silent(self, running: Sequence[Any]) -> list[Any]:
        """Those that gave no sign of life; without a heartbeat, that is all of them."""
        if not running or not has_heartbeat(self.study):
            return list(running)
        from sqlalchemy import text

        database = getattr(self.study._storage, "_backend", self.study._storage)  # behind a cache
        with database.engine.connect() as connection:
            rows = connection.execute(text("SELECT trial_id FROM trial_heartbeats"))
            heard = {row[0] for row in rows}
        return [t for t in running if t._trial_id not in heard]


def queue_again(study: Any, trial: Any, max_retry: int | None = RETRIES) -> None:
    """Call a dead worker's trial failed, and queue another of the same candidate.

    Args:
        max_retry: how often a candidate is queued again; None for ever.
    """
    states = optuna().trial.TrialState
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental
        if trial.state == states.RUNNING:
            study.tell(trial.number, state=states.FAIL, skip_if_finished=True)
        optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry)(study, trial)


def failed(trials: Sequence[Any]) -> list[Any]:
    """Trials whose worker died and that no other trial repeats."""
    fail = optuna().trial.TrialState.FAIL
    repeated = {n for t in trials for n in t.system_attrs.get("retry_history", ())}
    return [
        t
        for t in trials
        if t.state == fail and t.number not in repeated and SAME_AS not in t.user_attrs
    ]


def given_up(trial: Any) -> bool:
    """Whether a failed trial was repeated so often that it is not queued again."""
    return len(trial.system_attrs.get("retry_history", ())) >= RETRIES


def has_heartbeat(study: Any) -> bool:
    """Whether the storage of a study notices dead workers by itself."""
    return hasattr(study._storage, "get_heartbeat_interval")
