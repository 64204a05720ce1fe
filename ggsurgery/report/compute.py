"""The numbers of a report, before anything is drawn.

`compute_report` turns result files into tables and series; `render_html` and
`render_markdown` print them, and its `to_json` is the JSON form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import GGSurgeryError
from ..measure.registry import Direction, headlines
from ..measure.results.comparison import compare_all
from ..measure.results.facts import ModelFacts
from ..measure.results.result_files import Results
from ..measure.results.score import FACTS, Score
from ..measure.results.statistics import Interval
from ..measure.retention import retention
from ..measure.suite.result import compare_surgery
from ..present.figure import Figure, Point, bars


@dataclass(frozen=True, slots=True)
class Cell:
    """One score in a table, and its relation to the base's."""

    value: float
    stderr: float | None
    n: int
    interval: Interval | None = None
    retention: float | None = None
    status: str | None = None
    verdict: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One metric over all models; a cell is None where a model lacks it."""

    label: str
    direction: Direction | None
    cells: tuple[Cell | None, ...]

    @property
    def lower_is_better(self) -> bool:
        return self.direction == "lower"


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report shows; the first model is the base."""

    title: str
    models: tuple[ModelFacts, ...]
    rows: tuple[Row, ...]
    plots: tuple[Figure, ...]
    suites: tuple[Mapping[str, Any] | None, ...]
    controls: tuple[tuple[str, tuple[Mapping[str, Any], ...], str | None], ...]
    provenance: tuple[Mapping[str, Any], ...]

    @property
    def base(self) -> ModelFacts:
        return self.models[0]

    def to_json(self) -> dict[str, Any]:
        return {
            "ggsurgery": "report",
            "version": 1,
            "title": self.title,
            "models": [asdict(m) for m in self.models],
            "rows": [asdict(r) for r in self.rows],
            "plots": [asdict(p) for p in self.plots],
            "suites": [None if s is None else dict(s) for s in self.suites],
            "controls": [
                {"model": name, "controls": [dict(c) for c in controls], "verdict": verdict}
                for name, controls, verdict in self.controls
            ],
            "provenance": [dict(p) for p in self.provenance],
        }


def compute_report(
    results: Sequence[Results], *, title: str = "Evaluation", plots: Sequence[Figure] = ()
) -> Report:
    """Tables and plots of several models (or of none); the first result is the base.

    Args:
        plots: further figures, such as those of scans.
    """
    verdicts = [_verdicts(results[0], r) if n else {} for n, r in enumerate(results)]
    labels: dict[str, Score] = {}
    for item in results:
        for score in item.all_scores:
            labels.setdefault(score.label, score)
    rows = []
    for label, first in labels.items():
        cells = []
        for item, verdict in zip(results, verdicts, strict=True):
            base = None if item is results[0] else results[0].score(label)
            cells.append(_cell(base, item.score(label), verdict.get(label)))
        rows.append(Row(label, first.direction, tuple(cells)))
    quality = _quality_against_size(results)
    return Report(
        title=title,
        models=tuple(r.model for r in results),
        rows=tuple(rows),
        plots=(*([quality] if quality is not None else []), *plots),
        suites=tuple(None if r.suite is None else r.suite.to_json() for r in results),
        controls=tuple((r.model.name, r.controls, r.verdict) for r in results if r.controls),
        provenance=tuple(_provenance(r) for r in results),
    )


def _verdicts(base: Results, other: Results) -> dict[str, str]:
    """The conclusion for each metric against the base's."""
    found = compare_all(base.scores, other.scores)
    if base.suite is not None and other.suite is not None:
        # suites with different parts (one model has a chat template) are shown side by side
        with suppress(GGSurgeryError):
            found += compare_surgery(base.suite, other.suite)
    return {c.label: c.verdict for c in found}


def _cell(base: Score | None, score: Score | None, verdict: str | None) -> Cell | None:
    if score is None:
        return None
    share, word = (None, None) if base is None else retention(base, score)
    return Cell(score.value, score.stderr, score.n, score.interval, share, word, verdict)


def _quality_against_size(results: Sequence[Results]) -> Figure | None:
    """Quality over file size, for the first metric that two models or more have."""
    sized = [r for r in results if r.model.bytes]
    for wanted in headlines():
        labels = [s.label for r in sized for s in r.all_scores if wanted in (s.label, s.metric)]
        for label in dict.fromkeys(labels):
            found = [(r, r.score(label)) for r in sized]
            points = [
                Point((r.model.bytes or 0) / 2**20, s.value, s.stderr, r.model.name, named=True)
                for r, s in found
                if s is not None
            ]
            if len(points) > 1:
                first = next(s for _, s in found if s is not None)
                return Figure(
                    "Quality against size",
                    "file size, MiB",
                    label,
                    tuple(points),
                    positive=first.lower_is_better,
                    note=bars(first.direction),
                )
    return None


_OF_THE_FILE = ("file", "task", *FACTS)


def _provenance(results: Results) -> dict[str, Any]:
    """Provenance of a model's figures: settings and versions, each value once."""
    merged: dict[str, Any] = {"model": results.model.file}
    for score in results.all_scores:
        task = score.task or score.metric
        merged.setdefault(
            task, {k: v for k, v in score.provenance.items() if k not in _OF_THE_FILE}
        )
    return merged
