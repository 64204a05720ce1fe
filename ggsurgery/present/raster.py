"""Figures as PNG or PDF, drawn by matplotlib from the extra `plot`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from .figure import Figure

_FIRST, _SECOND = "tab:blue", "tab:red"


def render(figures: Sequence[Figure], kind: str) -> bytes:
    """Figures one below the other, as bytes of a `png` or `pdf`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 3.6 * len(figures)), layout="constrained")
    panels = canvas.subplots(len(figures), 1, squeeze=False)[:, 0]
    for figure, panel in zip(figures, panels, strict=True):
        _draw(figure.drawable(), panel)
    out = io.BytesIO()
    canvas.savefig(out, dpi=150, format=kind)
    return out.getvalue()


def _draw(figure: Figure, panel: Any) -> None:
    panel.grid(visible=True, alpha=0.3)
    panel.set_title(f"{figure.title}\n{figure.note}", fontsize=10)
    panel.set(xlabel=figure.x_label, ylabel=figure.y_label)
    if not figure.points:
        panel.text(0.5, 0.5, "no finite figure to draw", ha="center", transform=panel.transAxes)
        return
    line = figure.line()
    panel.plot([p.x for p in line], [p.y for p in line], color="0.7", zorder=1)
    for marked, colour in ((False, _FIRST), (True, _SECOND)):
        chosen = [p for p in figure.points if p.marked is marked]
        panel.errorbar(
            [p.x for p in chosen],
            [p.y for p in chosen],
            yerr=[p.stderr or 0.0 for p in chosen],
            fmt="o",
            markersize=4,
            capsize=2,
            color=colour,
        )
    for p in (p for p in figure.points if p.named):
        panel.annotate(p.label, (p.x, p.y), xytext=(5, -10), textcoords="offset points", fontsize=8)
    for level, style in zip(figure.levels, ("--", ":", "-."), strict=False):
        panel.axhline(level.y, color="0.4", linestyle=style, label=level.label)
        if level.stderr:
            panel.axhspan(level.y - level.stderr, level.y + level.stderr, color="0.4", alpha=0.15)
    if figure.levels:
        panel.legend(fontsize=8)
    x, y = figure.x_axis(), figure.y_axis()
    if y.log:
        panel.set_yscale("log")
    panel.set_xlim(x.low, x.high)
    panel.set_ylim(y.low, y.high)
    if figure.whole:
        panel.xaxis.get_major_locator().set_params(integer=True)
