"""Figures as SVG: points with error bars, readable on a phone and in the dark.

The drawing is 420 units wide so that its text stays legible on a narrow screen. Its colours are
the variables of the page around it; `document` brings its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .figure import Axis, Figure, Level, Point

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 46
#: Room for title and note above a figure in a file of its own.
HEAD = 40
_CHARACTER = 6.2  # mean width of a letter

#: The colours of a page in the light and in the dark.
COLOURS = """:root { --ground: #fff; --ink: #1c2126; --faint: #5d6873; --rule: #d5dade;
  --tint: #f3f5f7; --mark: #0b63b0; --band: #0b63b022; --good: #17703a; --fair: #7d5a00;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181c; --ink: #e4e8ec; --faint: #9ba6b1; --rule: #353d45; --tint: #1d2328;
    --mark: #6cb6ff; --band: #6cb6ff26; --good: #5fcf8b; --fair: #e0b34f; --bad: #ff8a80; } }"""

#: The styles of a drawing's classes.
STYLE = """svg text { fill: var(--ink); font-size: 11px; font-family: system-ui, sans-serif; }
svg .name { fill: var(--faint); } svg .grid { stroke: var(--rule); stroke-width: .7; }
svg .dot { fill: var(--mark); } svg .bar { stroke: var(--mark); stroke-width: 1.2; fill: none; }
svg .marked .dot { fill: var(--bad); } svg .marked .bar { stroke: var(--bad); }
svg .line { fill: none; stroke: var(--mark); stroke-width: 1; opacity: .45; }
svg .level { stroke: var(--faint); stroke-dasharray: 5 4; } svg .band { fill: var(--band); }"""


def document(figures: Sequence[Figure]) -> str:
    """Figures one below the other as an SVG file."""
    each, most = HEIGHT + HEAD, WIDTH / 5.6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" '
        f'height="{2 * each * len(figures)}" viewBox="0 0 {WIDTH} {each * len(figures)}">',
        f"<style>{COLOURS}\n{STYLE}</style>",
        '<rect width="100%" height="100%" style="fill: var(--ground)"/>',
    ]
    for n, figure in enumerate(figures):
        title, note = (escape(_cut(words, most)) for words in (figure.title, figure.note))
        place = f'width="{WIDTH}" height="{HEIGHT}" y="{n * each + HEAD}"'
        parts += [
            f'<text x="8" y="{n * each + 16}">{title}</text>',
            f'<text class="name" x="8" y="{n * each + 30}">{note}</text>',
            draw(figure).replace("<svg ", f"<svg {place} ", 1),
        ]
    return "\n".join([*parts, "</svg>", ""])


def caption(figure: Figure) -> str:
    """Title and what marks and bars mean."""
    return f"{figure.title}. {figure.note}".rstrip()


def draw(figure: Figure) -> str:
    """The figure as one `<svg>` element with a title for screen readers."""
    figure = figure.drawable()
    title = escape(figure.title)
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    if not figure.points:
        words = f'<text x="{LEFT}" y="{HEIGHT // 2}">no finite figure to draw</text>'
        return f"{head}<title>{title}</title>{words}</svg>"
    beside = _CHARACTER * max((len(v.label) for v in figure.levels), default=0)
    x = figure.x_axis(LEFT, WIDTH - RIGHT - beside)
    y = figure.y_axis(HEIGHT - BOTTOM, TOP)
    parts = [head, f"<title>{title}</title>", *_frame(x, y, figure)]
    for level in figure.levels:
        parts += _level(level, x, y)
    if line := figure.line():
        path = " ".join(f"{x.at(p.x):.1f},{y.at(p.y):.1f}" for p in line)
        parts.append(f'<polyline class="line" points="{path}"/>')
    for p in figure.points:
        parts += ['<g class="marked">', *_mark(p, x, y), "</g>"] if p.marked else _mark(p, x, y)
    parts += _labels([p for p in figure.points if p.named], x, y)
    return "\n".join([*parts, "</svg>"])


def _frame(x: Axis, y: Axis, figure: Figure) -> list[str]:
    """Grid, ticks, words of the axes."""
    parts = []
    for value in y.ticks:
        place = f"{y.at(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{x.end:.1f}" y1="{place}" y2="{place}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{place}" dy="4" text-anchor="end">{_tick(value)}</text>'
        )
    for value in x.ticks:
        if figure.whole and value != int(value):
            continue
        parts.append(
            f'<text x="{x.at(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{_tick(value)}</text>"
        )
    words = figure.y_label + (", log scale" if y.log else "")
    middle = f"{(LEFT + x.end) / 2:.1f}"
    parts.append(
        f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(figure.x_label)}</text>"
    )
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="name" transform="translate(12 {height}) rotate(-90)" '
        f'text-anchor="middle">{escape(_cut(words, (HEIGHT - 2 * TOP) / _CHARACTER))}</text>'
    )
    return parts


def _level(level: Level, x: Axis, y: Axis) -> list[str]:
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
    """A dot with its error bar; hovering shows the figures."""
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
        name = _cut(p.label, 28)
        width = _CHARACTER * len(name)
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


def _cut(text: str, most: float) -> str:
    return text if len(text) <= most else text[: int(most) - 1] + "…"


def _tick(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e5 else f"{value:.3g}"
