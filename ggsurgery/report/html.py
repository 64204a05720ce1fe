"""The report as one self-contained HTML page: no script, no font, no image from elsewhere."""

from __future__ import annotations

import json
from functools import cache

import jinja2
import markupsafe

from .. import __version__
from ..measure.retention import LEGEND
from ..present.svg import COLOURS, STYLE, caption, draw
from . import tables
from .compute import Report


@cache
def _page() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ggsurgery.report", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters["html"] = lambda table, kind="": markupsafe.Markup(table.html(kind))
    environment.globals |= {"tables": tables}
    return environment.get_template("page.html.j2")


def render_html(report: Report) -> str:
    """The page; every name from a result file is escaped."""
    names = [m.name for m in report.models]
    return _page().render(
        report=report,
        version=__version__,
        legend=LEGEND,
        # draw() escapes all words that it prints
        plots=[(p, caption(p), markupsafe.Markup(draw(p))) for p in report.plots],
        style=markupsafe.Markup(f"{COLOURS}\n{STYLE}"),
        suites=[(n, s) for n, s in zip(names, report.suites, strict=True) if s is not None],
        provenance=json.dumps([dict(p) for p in report.provenance], indent=1, ensure_ascii=False),
    )
