"""One figure: points over an axis, and the rule for that axis. SVG and PNG are drawn from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

#: Losing the first layer costs a thousand times the perplexity of any other: from this ratio on
#: the axis is logarithmic.
STEEP = 10
#: Above this no figure is drawn: its square would not be finite.
LARGEST = 1e100


@dataclass(frozen=True, slots=True)
class Point:
    """A figure with its standard error at a place of the x axis.

    Args:
        marked: drawn in the second colour.
        named: whether the label is written beside it.
    """

    x: float
    y: float
    stderr: float | None = None
    label: str = ""
    marked: bool = False
    named: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A figure to compare all points with: a dashed line, its error as a band."""

    y: float
    label: str
    stderr: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot: its words, its points, its level lines.

    Args:
        joined: which points a line joins, in their order.
        positive: whether the figures are compared by their ratio (perplexities, influences), so
            that a logarithmic axis suits them where they lie far apart.
        whole: whether the places of the x axis are whole numbers, as layers are.
        note: what marks and bars mean.
    """

    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    levels: tuple[Level, ...] = ()
    joined: Literal["none", "all", "marked"] = "none"
    positive: bool = False
    whole: bool = False
    note: str = ""

    def drawable(self) -> Figure:
        """Without the points that no axis can show, and without such errors."""
        points = (
            replace(p, stderr=_error(p.stderr))
            for p in self.points
            if abs(p.y) < LARGEST and abs(p.x) < LARGEST
        )
        levels = (replace(v, stderr=_error(v.stderr)) for v in self.levels if abs(v.y) < LARGEST)
        return replace(self, points=tuple(points), levels=tuple(levels))

    def line(self) -> list[Point]:
        """The points that a line joins."""
        if self.joined == "none":
            return []
        return [p for p in self.points if p.marked or self.joined == "all"]

    def x_axis(self, start: float = 0, end: float = 1) -> Axis:
        """The axis across, between two places of the drawing."""
        return axis([p.x for p in self.points], start, end, whole=self.whole)

    def y_axis(self, start: float = 0, end: float = 1) -> Axis:
        """The axis upwards: logarithmic where figures of one sign lie far apart."""
        marks = [(p.y, p.stderr or 0) for p in self.points]
        marks += [(level.y, level.stderr or 0) for level in self.levels]
        values = [y for y, _ in marks]
        if self.positive and min(values) > 0 and max(values) > STEEP * min(values):
            return log_axis(values, start, end)
        return axis([v for y, e in marks for v in (y - e, y + e)], start, end)


def bars(direction: str | None = None, of: str = "") -> str:
    """The note on error bars, and on the direction where less is better.

    Example:
        >>> bars("lower", "of the pairs")
        'Less is better. Bars: one standard error of the pairs.'
    """
    hint = "Less is better. " if direction == "lower" else ""
    return f"{hint}Bars: one standard error {of}".rstrip() + "."


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


def _error(stderr: float | None) -> float | None:
    return stderr if stderr is not None and abs(stderr) < LARGEST else None
