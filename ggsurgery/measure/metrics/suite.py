"""The surgery suite's score and its parts as metrics; the suite itself is `measure.suite`."""

from __future__ import annotations

from dataclasses import replace

from ...errors import EngineError
from ...files.progress import Progress
from ..meter import Meter, Model
from ..results.score import Score
from ..setup import Setup
from ..suite.run import N_CTX, run_part, run_suite


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


class PartMeter(Meter[int | None]):
    """One part, named by its row. Items are figures in which 0 is bad and 1 good."""

    def read(self, setup: Setup) -> int | None:
        return setup.limit

    def measure(self, model: Model, data: int | None, progress: Progress | None = None) -> Score:
        name = self.row.name.removeprefix("surgery_")
        with model.engine(N_CTX) as engine:
            part = run_part(engine, name, limit=data, progress=progress)
            if not part.applies:
                raise EngineError(
                    f"the suite's part {name} does not apply: {part.note}", file=engine.path
                )
        figures = [(item - part.bad) / (part.good - part.bad) for item in part.items]
        return replace(self.score(figures, part.ids), value=part.value)
