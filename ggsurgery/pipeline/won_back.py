"""The step `recovery` of a run: what healing and training won back, and a control.

The bare and the healed model and the uncut model in about the same bytes are measured like the
cut itself; nothing but the figures is kept of the control.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import GGSurgeryError
from ..files.atomic import atomic_path
from ..files.progress import Progress
from ..measure.controls import Control, about_the_same, building, ladder_sizes
from ..measure.results.recovery import UNCUT, recovery_of
from ..measure.results.result_files import load_results
from ..measure.results.score import Score
from .evaluation import Measurement
from .paths import STAGES, Places


def won_back(places: Places, source: Path, asked: Measurement) -> Callable[[Progress], Any]:
    """The work of the step, behind the perplexities of the source and of the cut.

    Args:
        asked: the measurement of perplexity.
    """

    def make(progress: Progress) -> Any:
        steps = [(UNCUT, _kept(places, "source", asked))]
        total = len(places.stages)
        for number, stage in enumerate(places.stages[:-1]):
            steps.append((STAGES[stage], _measured(asked, places.made(stage))))
            progress(number + 1, total)
        steps.append((STAGES[places.stages[-1]], _kept(places, "cut", asked)))
        warnings: list[str] = []
        control = None
        try:
            control = _control(places.cut, source, asked)
        except GGSurgeryError as error:
            warnings.append(f"no control in the same bytes: {error}")
        progress(total, total)
        found = recovery_of(steps, control)
        with atomic_path(places.recovery, force=True) as temporary:
            document = json.dumps(found.to_json(), ensure_ascii=False, indent=1)
            temporary.write_text(document, encoding="utf-8")
        return found.to_json() | {"verdict": found.verdict, "warnings": warnings}

    return make


def _control(cut: Path, source: Path, asked: Measurement) -> tuple[str, Score] | None:
    """The uncut model at the largest type that is not above the cut; None of no smaller cut."""
    n_bytes, base = cut.stat().st_size, source.stat().st_size
    if n_bytes >= base:
        return None
    names = about_the_same(n_bytes, base, ladder_sizes(source))
    if not names:
        return None
    control = Control(names[0], "same bytes", ftype=names[0])
    with building(control, source) as path:
        return names[0], _measured(asked, path)


def _measured(asked: Measurement, path: Path) -> Score:
    return _perplexity(asked.measure(path, lambda done, total: None).results.scores)


def _kept(places: Places, name: str, asked: Measurement) -> Score:
    return _perplexity(load_results(places.result(name, asked.name))[0].scores)


def _perplexity(scores: tuple[Score, ...]) -> Score:
    return next(score for score in scores if score.metric == "perplexity")
