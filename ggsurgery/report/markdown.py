"""The report as Markdown: the same tables, for a README or a model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..measure.retention import LEGEND
from ..present.markdown import plain, table
from .compute import Cell, Report
from .html import measured, mib


def render_markdown(report: Report) -> str:
    """Tables of models, scores, controls and suite parts."""
    parts = [
        f"# {plain(report.title)}",
        "## Models",
        _models(report),
        "## Scores",
        _scores(report),
    ]
    if len(report.models) > 1:
        parts.append(
            f"Base: {plain(report.base.name)}. ± is one standard error. Kept: share of the base's "
            f"figure. {LEGEND}"
        )
    for name, controls, verdict in report.controls:
        parts.append(f"## Controls of {plain(name)}")
        if verdict:
            parts.append(f"**{plain(verdict)}**")
        parts.append(
            _table(
                ("control", "kind", "size", "score", "p (Holm)", "result"),
                (
                    (c["name"], c["kind"], mib(c["bytes"]),
                     "–" if c["score"] is None else f"{c['score']:.1f}",
                     "–" if c["p_corrected"] is None else f"{c['p_corrected']:.4f}", c["verdict"])
                    for c in controls
                ),
            )
        )  # fmt: skip
    for model, suite in zip(report.models, report.suites, strict=True):
        if suite is None:
            continue
        low, high = suite["interval"]["low"], suite["interval"]["high"]
        parts.append(f"## Surgery suite: {plain(model.name)}")
        parts.append(
            f"{suite['total']:.1f} of 100, 95 % interval {low:.1f} to {high:.1f}, n = {suite['n']}"
        )
        parts.append(
            _table(
                ("part", "weight", "value", "n", "note"),
                (
                    (p["name"], f"{p['weight']:g}",
                     "–" if p["value"] is None else f"{p['value']:.3f}", p["n"], p["note"] or "")
                    for p in suite["parts"]
                ),
            )
        )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _models(report: Report) -> str:
    rows = (
        (m.name, "–" if m.layers is None else m.layers,
         f"{m.parameters:,}" if m.parameters else "–", mib(m.bytes), m.quantization or "–")
        for m in report.models
    )  # fmt: skip
    return _table(("model", "layers", "parameters", "size", "type"), rows)


def _scores(report: Report) -> str:
    header = ("metric", *(m.name for m in report.models))
    return _table(header, ((row.label, *map(_cell, row.cells)) for row in report.rows))


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = f"{measured(cell.value, cell.stderr, cell.interval)} (n = {cell.n})"
    if cell.retention is not None:
        text += f", {100 * cell.retention:.1f} % kept: {cell.status}"
    return text + (f"; {cell.verdict}" if cell.verdict else "")


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(table(header, rows, figures=True))
