"""The report as one self-contained HTML page: no script, no font, no image from elsewhere."""

from __future__ import annotations

import json
import math
from functools import cache

import jinja2
import markupsafe

from .. import __version__
from ..measure.figures import figure_in_words
from ..measure.results.statistics import Interval
from ..measure.retention import LEGEND
from .compute import Report
from .svg import draw


@cache
def _page() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ggsurgery.report", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters |= {"mib": mib, "measured": measured}
    return environment.get_template("page.html.j2")


def render_html(report: Report) -> str:
    """The page; every name from a result file is escaped."""
    names = [m.name for m in report.models]
    return _page().render(
        report=report,
        version=__version__,
        legend=LEGEND,
        # draw() escapes all words that it prints
        plots=[(p.title, markupsafe.Markup(draw(p))) for p in report.plots],
        suites=[(n, s) for n, s in zip(names, report.suites, strict=True) if s is not None],
        provenance=json.dumps([dict(p) for p in report.provenance], indent=1, ensure_ascii=False),
    )


def mib(size: object) -> str:
    """Bytes as MiB.

    Example:
        >>> mib(1 << 21)
        '2.0 MiB'
    """
    return f"{size / 2**20:,.1f} MiB" if isinstance(size, int | float) else "–"


def measured(value: float, stderr: float | None, interval: Interval | None = None) -> str:
    """A figure with its error, four decimals below 10, fewer above.

    Example:
        >>> measured(71.4812, 2.3)
        '71.48 ± 2.30'
    """
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    decimals = 4 if size < 10 else 2 if size < 10_000 else 0
    return figure_in_words(value, stderr, interval, decimals)
