"""The tables of a report, the same ones on the page and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..present.figure import Figure
from ..present.numbers import figure_in_words, human_bytes
from ..present.table import Cell, Table
from .compute import Cell as Score
from .compute import Report

#: Characters of an answer that a transcript shows.
ANSWER = 300


def models_table(report: Report) -> Table:
    """A description of each model."""
    head = ("model", "layers", "parameters", "size", "type", "bits per weight")
    rows = (
        (
            m.name,
            m.layers,
            f"{m.parameters:,}" if m.parameters else None,
            human_bytes(m.bytes),
            m.quantization,
            f"{m.bits_per_weight:.2f}" if m.bits_per_weight else None,
        )
        for m in report.models
    )
    return Table(head, rows)


def scores_table(report: Report) -> Table:
    """One line a metric, one column a model."""
    rows = (
        (
            Cell(row.label, (("less is better", ""),) if row.lower_is_better else ()),
            *map(_score, row.cells),
        )
        for row in report.rows
    )
    return Table(("metric", *(m.name for m in report.models)), rows)


def _score(cell: Score | None) -> Cell | None:
    if cell is None:
        return None
    notes = [(f"n = {cell.n}", "")]
    if cell.retention is not None and cell.status is not None:
        notes.append((f"{100 * cell.retention:.1f} % kept: {cell.status}", cell.status))
    if cell.verdict:
        notes.append((cell.verdict, ""))
    shown = figure_in_words(cell.value, cell.stderr, cell.interval, None)
    return Cell(shown, tuple(notes))


def controls_table(controls: Sequence[Mapping[str, Any]]) -> Table:
    """The controls of a model, with the result of the paired test for each."""
    head = ("control", "kind", "size", "score", "95 % interval", "p (Holm)", "result")
    rows = (
        (
            c["name"],
            c["kind"],
            human_bytes(c["bytes"]),
            None if c["score"] is None else f"{c['score']:.1f}",
            _span(c.get("interval"), 1),
            c["p_corrected"],
            c["verdict"],
        )
        for c in controls
    )
    return Table(head, rows)


def parts_table(suite: Mapping[str, Any]) -> Table:
    """The parts of the surgery suite."""
    rows = (
        (
            p["name"],
            f"{p['weight']:g}",
            None if p["value"] is None else f"{p['value']:.3f}",
            p["n"],
            _span(p.get("interval"), 2),
            p["note"] or "",
        )
        for p in suite["parts"]
    )
    return Table(("part", "weight", "value", "n", "95 % interval", "note"), rows)


def points_table(figure: Figure) -> Table:
    """The points of a plot, for readers who cannot see it and for Markdown."""
    rows = [(p.label, figure_in_words(p.y, p.stderr, None, None)) for p in figure.points]
    rows += [(v.label, figure_in_words(v.y, v.stderr, None, None)) for v in figure.levels]
    return Table((figure.x_label, figure.y_label), rows)


def transcript_table(transcript: Sequence[Mapping[str, Any]]) -> Table:
    """Questions and answers."""
    rows = (
        (
            t.get("asked", ""),
            _short(str(t.get("said", ""))),
            None if "right" not in t else "yes" if t["right"] else "no",
        )
        for t in transcript
    )
    return Table(("asked", "said", "right"), rows)


def _span(interval: Mapping[str, float] | None, digits: int) -> str | None:
    if not interval:
        return None
    return f"{interval['low']:.{digits}f} to {interval['high']:.{digits}f}"


def _short(text: str) -> str:
    return text if len(text) <= ANSWER else text[: ANSWER - 1] + "…"
