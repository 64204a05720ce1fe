"""The result of a measuring request, and its result file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..files.atomic import atomic_path
from ..measure.results.envelope import digest_of, envelope
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..measure.results.score import Score
from .request import Settings


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


#: Fields of requests that no figure depends on, and the model and the text themselves.
_NO_SETTINGS = {"file", "text", "out", "force", "threads"}
#: Large files beside the model; only their names are recorded.
_MODELS = {"base", "baseline", "base_file", "cut"}


def envelope_of(kind: str, request: Settings) -> dict[str, Any]:
    """The provenance of a result, for `--json`: see `measure.results.envelope`."""
    values = request.values()
    text = values.get("text")
    settings = {k: _plain(k, v) for k, v in values.items() if k not in _NO_SETTINGS}
    return envelope(kind, Path(values["file"]), settings, None if text is None else Path(text))


def document_of(kind: str, request: Settings, results: Results) -> dict[str, Any]:
    """Results as `--json` prints them."""
    return results.to_json() | envelope_of(kind, request)


def _plain(name: str, value: Any) -> Any:
    """A setting as JSON; files count by their content."""
    if not isinstance(value, Path):
        return value
    return {"file": value.name} | ({} if name in _MODELS else digest_of(value))


def write_text(out: Path, text: str, *, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Write a text file atomically.

    Raises:
        OutputError: it exists (without `force`) or its folder is missing.
    """
    with atomic_path(out, inputs=inputs, force=force) as temporary:
        temporary.write_bytes(text.encode(errors="backslashreplace"))  # names not in UTF-8


def write_json(
    out: str | Path | None, document: Any, *, force: bool, inputs: Sequence[Path] = ()
) -> None:
    """Write a JSON document, if a file is wanted.

    Raises:
        OutputError: it exists (without `force`) or its folder is missing.
    """
    if out is not None:
        text = json.dumps(document, indent=1, ensure_ascii=False)
        write_text(Path(out), text + "\n", force=force, inputs=inputs)


def write_results(out: str | Path | None, results: Results, *, force: bool) -> None:
    """Write a result file, if one is wanted."""
    write_json(out, results.to_json(), force=force, inputs=[Path(results.model.file)])
