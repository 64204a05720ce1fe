"""Give back the candidates of dead workers where the storage has no heartbeat.

PostgreSQL and SQLite know which workers are alive (Optuna's heartbeat). A journal file and
a gRPC proxy do not: there a candidate that has been on its way for far longer than any was
measured in counts as lost. Each worker times that by its own clock.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from .storage import RETRIES, optuna

#: How many times the longest measurement so far a candidate may take.
PATIENCE = 10.0


class Silence:
    """Watches the running trials of one study.

    Args:
        least: seconds that any candidate may take.
    """

    def __init__(self, study: Any, least: float) -> None:
        self.study, self.least = study, least
        self._since: dict[int, float] = {}

    def give_back(self, trials: Sequence[Any]) -> list[int]:
        """Queue lost trials again; returns their numbers."""
        states = optuna().trial.TrialState
        now = time.monotonic()
        longest = max((float(t.user_attrs.get("seconds") or 0) for t in trials), default=0.0)
        limit = max(self.least, PATIENCE * longest)
        running = [t for t in trials if t.state == states.RUNNING]
        self._since = {t.number: self._since.get(t.number, now) for t in running}
        lost = [t for t in running if now - self._since[t.number] > limit]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental
            again = optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
            for trial in lost:
                self.study.tell(trial.number, state=states.FAIL, skip_if_finished=True)
                again(self.study, trial)
        return [t.number for t in lost]


def has_heartbeat(study: Any) -> bool:
    """Whether the storage of a study notices dead workers by itself."""
    return hasattr(study._storage, "get_heartbeat_interval")
