"""Plots as inline SVG: points with error bars, readable on a phone and in the dark.

Colours come from the page's CSS variables; the drawing is 420 units wide so that its text
stays legible on a narrow screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from ..files.fields import FINITE
from .compute import Point, Series

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 46

#: Losing the first layer costs a thousand times the perplexity of any other: from this ratio on
#: the axis is logarithmic.
STEEP = 10


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to places, by their logarithm if `log`; `ticks` are round numbers within."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:  # an error bar may reach below zero: it ends at the axis
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            steps = (1, 2, 5) if len(powers) < 4 else (1,)
            found = [m * 10.0**k for k in powers for m in steps]
            return [t for t in found if self.low <= t <= self.high]
        step = round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def round_step(width: float) -> float:
    """The next of 1, 2, 5 · 10^k at or above a width.

    Example:
        >>> round_step(0.3)
        0.5
    """
    power = 10.0 ** math.floor(math.log10(width))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= width * (1 - 1e-9))


def axis(values: Sequence[float], start: float, end: float, *, whole: bool = False) -> Axis:
    """An axis around the values with a little room at both ends."""
    low, high = min(values), max(values)
    room = max(0.5, 1e-9 * abs(high)) if whole else 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, end)


def log_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis by logarithm around values above zero."""
    return Axis(min(values) / 1.3, max(values) * 1.3, start, end, log=True)


def draw(series: Series) -> str:
    """The plot as one `<svg>` element with a title for screen readers."""
    series = replace(series, level=_drawable(series.level))
    points = [p for p in map(_drawable, series.points) if p is not None]
    if not points:
        return f"<p>{escape(series.title)}: no finite figure to draw.</p>"
    marks = [*points, *([series.level] if series.level is not None else [])]
    spans = [y for p in marks for y in (p.y - (p.stderr or 0), p.y + (p.stderr or 0))]
    beside = 0 if series.level is None else 6.2 * len(series.level.label)
    x = axis([p.x for p in points], LEFT, WIDTH - RIGHT - beside, whole=series.connected)
    values = [p.y for p in marks]
    if series.lower_is_better and min(values) > 0 and max(values) > STEEP * min(values):
        y = log_axis(values, HEIGHT - BOTTOM, TOP)
    else:
        y = axis(spans, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(series.title)}">',
        f"<title>{escape(series.title)}</title>",
        *_frame(x, y, series),
    ]
    if series.level is not None:
        parts += _level(series.level, x, y)
    if series.connected:
        path = " ".join(f"{x.at(p.x):.1f},{y.at(p.y):.1f}" for p in points)
        parts.append(f'<polyline class="line" points="{path}"/>')
    for p in points:
        parts += _mark(p, x, y)
    if not series.connected:
        parts += _labels(points, x, y)
    parts.append("</svg>")
    return "\n".join(parts)


def _drawable(point: Point | None) -> Point | None:
    """A point without an error that no bar can show; None where the figure itself is none."""
    if point is None or not (abs(point.y) < FINITE and abs(point.x) < FINITE):
        return None
    error = point.stderr
    return point if error is None or abs(error) < FINITE else replace(point, stderr=None)


def _frame(x: Axis, y: Axis, series: Series) -> list[str]:
    """Grid, ticks, words of the axes."""
    parts = []
    for value in y.ticks:
        place = f"{y.at(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{x.end:.1f}" y1="{place}" y2="{place}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{place}" dy="4" text-anchor="end">{_tick(value)}</text>'
        )
    for value in x.ticks:
        if series.connected and value != int(value):
            continue
        parts.append(
            f'<text x="{x.at(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{_tick(value)}</text>"
        )
    hint = " (less is better)" if series.lower_is_better else ""
    hint += ", log scale" if y.log else ""
    middle = f"{(LEFT + x.end) / 2:.1f}"
    parts.append(
        f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(series.x_label)}</text>"
    )
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="name" transform="translate(12 {height}) rotate(-90)" '
        f'text-anchor="middle">{escape(series.y_label + hint)}</text>'
    )
    return parts


def _level(level: Point, x: Axis, y: Axis) -> list[str]:
    """The base's figure as a band of one standard error and a dashed line."""
    parts = []
    if level.stderr:
        top, bottom = y.at(level.y + level.stderr), y.at(level.y - level.stderr)
        parts.append(
            f'<rect class="band" x="{LEFT}" width="{x.end - LEFT:.1f}" y="{top:.1f}" '
            f'height="{bottom - top:.1f}"/>'
        )
    place = f"{y.at(level.y):.1f}"
    parts.append(
        f'<line class="level" x1="{LEFT}" x2="{x.end:.1f}" y1="{place}" y2="{place}">'
        f"<title>{escape(level.label)} {level.y:.4g}</title></line>"
    )
    parts.append(
        f'<text class="name" x="{x.end + 4:.1f}" y="{place}" dy="4">{escape(level.label)}</text>'
    )
    return parts


def _mark(point: Point, x: Axis, y: Axis) -> list[str]:
    """A dot with its error bar; hovering tells the figures."""
    place, height = x.at(point.x), y.at(point.y)
    error = "" if point.stderr is None else f" ± {point.stderr:.4g}"
    words = escape(f"{point.label}: {point.y:.4g}{error}")
    parts = []
    if point.stderr:
        top, bottom = y.at(point.y + point.stderr), y.at(point.y - point.stderr)
        parts.append(
            f'<path class="bar" d="M{place:.1f} {top:.1f}V{bottom:.1f}'
            f'M{place - 3:.1f} {top:.1f}h6M{place - 3:.1f} {bottom:.1f}h6"/>'
        )
    parts.append(
        f'<circle class="dot" cx="{place:.1f}" cy="{height:.1f}" r="3.5"><title>{words}</title>'
        "</circle>"
    )
    return parts


def _labels(points: Sequence[Point], x: Axis, y: Axis) -> list[str]:
    """Names beside the dots, on the side with room, moved apart where they would overlap."""
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []  # left, right, baseline
    for p in sorted(points, key=lambda p: y.at(p.y)):
        name = p.label if len(p.label) <= 28 else p.label[:27] + "…"
        width = 6.2 * len(name)
        right = x.at(p.x) + 8 + width <= WIDTH
        left = x.at(p.x) + 8 if right else x.at(p.x) - 8 - width
        base = y.at(p.y) + 4
        while any(left < b and a < left + width and abs(base - h) < 12 for a, b, h in taken):
            base += 3
        taken.append((left, left + width, base))
        anchor, place = ("start", left) if right else ("end", left + width)
        parts.append(
            f'<text class="label" x="{place:.1f}" y="{base:.1f}" text-anchor="{anchor}">'
            f"{escape(name)}</text>"
        )
    return parts


def _tick(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e5 else f"{value:.3g}"
