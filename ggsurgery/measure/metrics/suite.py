"""The surgery suite's score out of 100 as a metric; the suite itself is `measure.suite`."""

from __future__ import annotations

from ...files.progress import Progress
from ..meter import Meter, Model
from ..results.score import Score
from ..setup import Setup
from ..suite.run import N_CTX, run_suite


class SuiteMeter(Meter[int | None]):
    """Has no items: the parts have units of their own. Data is the limit of a part."""

    def read(self, setup: Setup) -> int | None:
        return setup.limit

    def measure(self, model: Model, data: int | None, progress: Progress | None = None) -> Score:
        with model.engine(N_CTX) as engine:
            found = run_suite(engine, limit=data, progress=progress)
        parts = {part.name: part.value for part in found.applicable}
        facts = {**parts, "facts_accuracy": parts.get("facts")}
        return self.made(found.total, float(found.draws().std()), found.n, facts=facts)
