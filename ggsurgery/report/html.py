"""The report as one self-contained HTML page: no script, no font, no image from elsewhere."""

from __future__ import annotations

import json
import math

import jinja2
import markupsafe

from .. import __version__
from .compute import Report
from .svg import draw


def render_html(report: Report) -> str:
    """The page; every name from a result file is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ggsurgery.report", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters |= {"mib": mib, "figure": figure}
    names = [m.name for m in report.models]
    return environment.get_template("page.html.j2").render(
        report=report,
        version=__version__,
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


def figure(value: float) -> str:
    """Four decimals below 10, fewer above: 0.2512, 71.48, 64512.

    Example:
        >>> figure(71.4812)
        '71.48'
    """
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    return f"{value:.4f}" if size < 10 else f"{value:.2f}" if size < 10_000 else f"{value:.0f}"
