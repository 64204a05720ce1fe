"""Documents of results as figures, for `--plot` and `report`.

Those of `influence`, `scan` and `search`, and what the steps behind a cut won back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files.fields import Fields, finite, flag, list_of, number, text, whole
from ..measure.registry import as_direction, direction_of, metric_of
from ..measure.results.recovery import CONTROL, Recovery, is_recovery
from ..present.figure import Figure, Level, Point, bars

#: The label of a scan's positions, by its operation.
_POSITIONS = {
    "delete": "removed layer",
    "duplicate": "duplicated layer",
    "swap": "first swapped layer",
    "prune": "weights set to zero, %",
    "drop-expert": "layer (experts side by side)",
}


def figures_of(document: Any) -> tuple[Figure, ...] | None:
    """The figures of an `influence`, `scan`, `search`, `vocab count` or a recovery; else None.

    Raises:
        FormatError: a field is missing or of the wrong type.
    """
    fields = set(document) if isinstance(document, dict) else set()
    if {"operation", "metric", "base", "rows"} <= fields:
        return (scan_figure(document),)
    if {"angular_at", "layers"} <= fields:
        return influence_figures(document)
    if {"study", "objective", "rows"} <= fields:
        return (search_figure(document),)
    if {"vocabulary", "needed", "curve"} <= fields:
        return (vocabulary_figure(document),)
    if is_recovery(document):
        return (recovery_figure(document),)
    return None


def vocabulary_figure(count: Mapping[str, Any]) -> Figure:
    """How much of the texts would be split further, against the tokens that stay.

    Raises:
        FormatError: a field is missing or of the wrong type.
    """
    rows = Fields(count).get("curve", list_of(Fields))
    points = tuple(
        Point(n, 100 * (1 - share), label=f"{n:,} tokens")
        for n, share in ((row.get("tokens", whole), row.get("coverage", finite)) for row in rows)
    )
    return Figure(
        "text split further against the size of the vocabulary",
        "tokens kept",
        "tokens of the text split, %",
        points,
        joined="all",
        whole=False,
    )


def scan_figure(scan: Mapping[str, Any]) -> Figure:
    """A scan's figures against the changed layer (or the pruned share).

    Perplexity is drawn as its ratio to the uncut model's, accuracies and scores as differences,
    with the error of the pairs: it is a fraction of the error of the figures themselves, which
    the choice of the text dominates. Candidates that failed leave a gap, and documents without
    differences are drawn by their figures.

    Raises:
        FormatError: a field is missing or of the wrong type.
    """
    document = Fields(scan)
    metric, operation = document.get("metric", text), document.get("operation", text)
    place = _POSITIONS.get(operation, "position")
    rows = document.get("rows", list_of(_row))
    measured = [row for row in rows if row is not None]
    uncut, error, chance = document.get("base", _base)
    name = _shown(metric)
    row = metric_of(metric)
    relative = row is not None and row.relative
    logarithmic = row is not None and row.logarithmic
    paired = not relative and bool(measured) and all(d is not None for *_, d, _ in measured)
    levels = [Level(uncut, "uncut", error)] if not relative else []
    direction = document.get_or("direction", as_direction, direction_of(metric))
    what, positive, least = name, direction == "lower", chance
    if paired and logarithmic:
        levels, what, least = [Level(1.0, "uncut")], f"{name} ratio to uncut", None
    elif paired:
        levels, what, positive = [Level(0.0, "uncut")], f"{name}, difference to uncut", False
        least = None if chance is None else chance - uncut
    if least is not None:
        levels.append(Level(least, "guessing"))
    points = []
    for x, value, stderr, difference, spread in measured:
        y, bar = (difference, spread) if paired and difference is not None else (value, stderr)
        if paired and logarithmic:
            y = math.exp(min(y, 700.0))
            bar = None if bar is None else y * bar
        points.append(Point(x, y, bar, f"{place} {x:g}"))
    return Figure(
        f"{name} against the {place}",
        place,
        what,
        tuple(points),
        tuple(levels),
        joined="all",
        positive=positive,
        whole=operation not in ("prune", "drop-expert"),
        note=bars(direction, "of the pairs" if paired else ""),
    )


def _base(base: Any) -> tuple[float, float | None, float | None]:
    """The uncut model's figure, its error, and what guessing gives."""
    fields = Fields(base)
    more = (fields.get_or(k, number, None) for k in ("stderr", "chance"))
    return (fields.get("value", number), *more)  # type: ignore[return-value]


Row = tuple[float, float, float | None, float | None, float | None]


def _row(row: Any) -> Row | None:
    """Place, figure, its error, difference, its error; None for a candidate that failed."""
    fields = Fields(row)
    value = fields.get_or("value", number, None)
    if value is None:
        return None
    more = (fields.get_or(k, number, None) for k in ("stderr", "difference", "difference_stderr"))
    return (fields.get("position", finite), value, *more)  # type: ignore[return-value]


def influence_figures(influence: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Block influence by layer; with spans, their angular distances as a second figure.

    Raises:
        FormatError: a field is missing or of the wrong type.
    """
    document = Fields(influence)
    sink = document.get_or("sink", whole, None)
    note = bars()
    if sink is not None:
        note += f" Red: layer {sink} makes the attention sink."
    name = Path(document.get_or("file", text, "")).name
    block = Figure(
        f"Block influence, {name} ({document.get('tokens', whole):,} tokens)",
        "layer",
        "1 − cos(input, output)",
        document.get("layers", list_of(lambda v: _layer(v, sink))),
        joined="all",
        positive=True,
        whole=True,
        note=note,
    )
    spans = document.get_or("spans", list_of(_span), ())
    if not spans:
        return (block,)
    at = "last token" if document.get("angular_at", text) == "last" else "all tokens"
    best = replace(spans[0], named=True)  # the smallest distance comes first
    points = sorted([best, *spans[1:]], key=lambda p: p.x)
    distance = Figure(
        "Angular distance of spans of layers",
        "first layer of the span",
        f"angular distance / π ({at})",
        tuple(points),
        joined="all",
        whole=True,
        note="" if sink is None else "Red: the span cuts the attention sink.",
    )
    return block, distance


def _layer(value: Any, sink: int | None) -> Point:
    layer = Fields(value)
    number_of = layer.get("layer", whole)
    return Point(
        number_of,
        layer.get("influence", number),
        layer.get_or("stderr", number, None),
        f"layer {number_of}",
        marked=number_of == sink,
    )


def _span(value: Any) -> Point:
    span = Fields(value)
    first, last = span.get("first", whole), span.get("last", whole)
    cuts = span.get_or("cuts_sink", flag, False)
    return Point(first, span.get("angular", number), None, f"{first}-{last}", marked=cuts)


def search_figure(search: Mapping[str, Any]) -> Figure:
    """All configurations in their order, or both objectives with the Pareto front.

    Raises:
        FormatError: a field is missing or of the wrong type.
    """
    document = Fields(search)
    objective, second = document.get("objective", text), document.get_or("second", text, None)
    direction = document.get_or("direction", as_direction, direction_of(objective))
    front = frozenset(document.get_or("pareto", list_of(whole), ()))
    rows = document.get("rows", list_of(lambda row: _configuration(row, second, front)))
    points = sorted((p for p in rows if p is not None), key=lambda p: p.x)
    words = "trial" if second is None else "file size (MiB)" if second == "size" else "tokens/s"
    return Figure(
        f"{document.get('tried', whole)} configurations",
        words,
        _shown(objective),
        tuple(points),
        joined="none" if second is None else "marked",
        positive=direction == "lower",
        whole=second is None,
        note=bars(direction) if second is None else "Red: the Pareto front.",
    )


def recovery_figure(document: Mapping[str, Any]) -> Figure:
    """Perplexity after each step; the control, the uncut model in the same bytes, as a line.

    Raises:
        FieldError: a field is missing or of the wrong type.
    """
    rungs = Recovery.from_json(document).rungs
    steps = [rung for rung in rungs if rung.name != CONTROL]
    points = (
        Point(number, rung.perplexity, rung.stderr, rung.name, named=True)
        for number, rung in enumerate(steps)
    )
    levels = (
        Level(rung.perplexity, f"uncut, {rung.what}", rung.stderr)
        for rung in rungs
        if rung.name == CONTROL
    )
    return Figure(
        "What each step won back",
        "step",
        "perplexity",
        tuple(points),
        tuple(levels),
        joined="all",
        positive=True,
        whole=True,
        note=bars("lower"),
    )


def _configuration(value: Any, second: str | None, front: frozenset[int]) -> Point | None:
    """A configuration over its number or its second objective; None for one that failed."""
    row = Fields(value)
    values = row.get_or("values", list_of(number), ())
    if len(values) < (1 if second is None else 2):
        return None
    trial, label = row.get("trial", whole), row.get_or("operation", text, "") or "uncut"
    if second is None:
        return Point(trial, values[0], row.get_or("stderr", number, None), label)
    across = values[1] / 2**20 if second == "size" else values[1]
    return Point(across, values[0], None, label, marked=trial in front, named=trial in front)


def _shown(metric: str) -> str:
    """A metric with the name of its data."""
    kind, _, data = metric.partition(":")
    return f"{kind} {Path(data).stem}" if data else kind
