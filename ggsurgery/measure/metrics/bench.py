"""A task of lm-evaluation-harness as a metric; the harness itself is `measure.bench`.

`bench:FOLDER/TASK` reads the questions of FOLDER, `bench:TASK` those of the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ...errors import GGSurgeryError
from ...files.progress import Progress
from ...runtime import worker
from ..bench.run import N_CTX, directions_of_task, run_tasks, task_files
from ..bench.tasks import question_file
from ..meter import Meter, Model
from ..registry import METRICS, Direction, Metric
from ..results.score import Score
from ..setup import Setup


@dataclass(frozen=True, slots=True)
class Task:
    """A task, the folder of its questions (None: the network), and which of them are asked."""

    name: str
    folder: Path | None
    limit: int | None = None
    limit_seed: int = 0

    @classmethod
    def written(cls, text: str) -> Task:
        """`TASK` or `FOLDER/TASK`."""
        path = Path(text)
        return cls(path.name, path.parent if len(path.parts) > 1 else None)

    @property
    def questions(self) -> Path | None:
        """The local file of questions."""
        return None if self.folder is None else question_file(self.folder, self.name)


class BenchMeter(Meter[Task]):
    """Items are the questions' figures where the harness keeps them."""

    def read(self, setup: Setup) -> Task:
        task = Task.written(setup.argument)
        return replace(task, limit=setup.limit, limit_seed=setup.limit_seed)

    def measure(self, model: Model, data: Task, progress: Progress | None = None) -> Score:
        asked = [data.name]
        files = task_files(asked, data.folder, limit=data.limit, limit_seed=data.limit_seed)
        with files as include, model.engine(N_CTX) as engine:
            offline = data.folder is not None
            found = run_tasks(
                engine, asked, include, offline=offline, limit=data.limit, progress=progress
            )
        scores = [s for s in found.scores if s.metric.partition(" (")[0] == self.row.name]
        if not scores or scores[0].direction != self.row.direction:
            raise GGSurgeryError(
                f"task {data.name}: lm-evaluation-harness changed its metrics between two runs",
                expected=f"{self.row.name}, {self.row.direction} is better",
                found=", ".join(s.metric for s in found.scores) or "no figure",
            )
        score = scores[0]
        kept = ("shots", "chance")
        facts = {k: v for k, v in score.provenance.items() if k in kept}
        return self.made(score.value, score.stderr, score.n, score.items, score.ids, facts)


def row_of_task(row: Metric, written: str, score: str) -> Metric:
    """The row of the figure that a task is measured by, its direction read from the harness.

    That is `score` (acc, acc_norm) where the task has it, else the first figure of the task.

    Raises:
        MissingExtraError: lm-eval is not installed.
        GGSurgeryError: an unknown task, missing data, or no figure with a direction.
    """
    directions = _directions(written)
    if not directions:
        raise GGSurgeryError(f"task {written}: lm-evaluation-harness gives no metric a direction")
    name = score if score in directions else next(iter(directions))
    known = METRICS.get(name) or Metric(name, name, "figure", directions[name])
    return replace(known, direction=directions[name], needs=row.needs, meter=row.meter)


@cache
def _directions(written: str) -> dict[str, Direction]:
    task = Task.written(written)
    return worker.run(directions_of_task, task.name, task.folder)
