"""What a measuring request returns, and how it writes its result file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..files.atomic import atomic_path
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..measure.results.score import Score


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one model.

    Args:
        results: as result files hold them, for `compare`, `report` and `release`.
        warnings: what the user should know before relying on the figures.
    """

    results: Results
    warnings: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[Score, ...]:
        return self.results.all_scores


def of_text(scores: list[Score], text: Path, file: Path) -> Results:
    """Scores of a text as results, with the text's name."""
    named = (replace(s, provenance={**s.provenance, "text": text.name}) for s in scores)
    return Results(model_facts(file), tuple(named))


def write_text(out: Path, text: str, *, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Write a text file that appears whole or not at all.

    Raises:
        OutputError: it exists (without `force`) or its folder is missing.
    """
    with atomic_path(out, inputs=inputs, force=force) as temporary:
        temporary.write_bytes(text.encode(errors="backslashreplace"))  # names not in UTF-8


def write_results(out: str | Path | None, results: Results, *, force: bool) -> None:
    """Write a result file, if one is wanted."""
    if out is not None:
        document = json.dumps(results.to_json(), indent=1, ensure_ascii=False)
        write_text(Path(out), document + "\n", force=force, inputs=[Path(results.model.file)])
