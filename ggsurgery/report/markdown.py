"""The report as Markdown: the same tables, for a README or a model card."""

from __future__ import annotations

from ..measure.retention import LEGEND
from ..present.markdown import plain
from . import tables
from .compute import Report


def render_markdown(report: Report) -> str:
    """Tables of models, scores, controls, plots and suite parts."""
    parts = [f"# {plain(report.title)}"]
    if report.models:
        parts += ["## Models", tables.models_table(report).markdown()]
        parts += ["## Scores", tables.scores_table(report).markdown()]
    if len(report.models) > 1:
        parts.append(
            f"Base: {plain(report.base.name)}. ± is one standard error. Kept: share of the base's "
            f"figure. {LEGEND}"
        )
    for name, controls, verdict in report.controls:
        parts.append(f"## Controls of {plain(name)}")
        if verdict:
            parts.append(f"**{plain(verdict)}**")
        parts.append(tables.controls_table(controls).markdown())
    for plot in report.plots:
        parts += [f"## {plain(plot.title)}", tables.points_table(plot).markdown()]
        parts += [plain(plot.note)] if plot.note else []
    for model, suite in zip(report.models, report.suites, strict=True):
        if suite is None:
            continue
        low, high = suite["interval"]["low"], suite["interval"]["high"]
        parts += [
            f"## Surgery suite: {plain(model.name)}",
            f"{suite['total']:.1f} of 100, 95 % interval {low:.1f} to {high:.1f}, n = {suite['n']}",
            tables.parts_table(suite).markdown(),
        ]
    return "\n\n".join(parts) + "\n"
