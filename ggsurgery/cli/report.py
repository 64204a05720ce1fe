"""report: result files as one self-contained page."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import FormatError
from ..files.fields import read_json
from ..find.figures import figures_of
from ..measure.results.result_files import Results, load_with_base, merge_results
from ..present.figure import Figure
from ..report.compute import compute_report
from ..report.html import render_html
from ..report.markdown import render_markdown
from ._evaluate import save_text
from ._files import FILE


@click.command()
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True, type=FILE)
@click.option("-o", "--out", required=True, type=FILE, help="FILE.html, FILE.md or FILE.json.")
@click.option("--title", default="Evaluation", show_default=True, help="Title of the page.")
@click.option("--force", is_flag=True, help="Replace an existing report.")
def report(results: tuple[Path, ...], out: Path, title: str, force: bool) -> None:
    """Put result files into one report; the first model is the base.

    RESULTS are files written with `evaluate -o`, `choices -o`, `bench -o`, by --json
    (`perplexity`, `kl`, `influence`, `scan`, `search` …), or by lm-evaluation-harness. The HTML
    page is self-contained, needs no network and no script, and supports phones and dark mode.

    \b
    Example:
      ggsurgery report base.json cut.json -o report.html
      ggsurgery report scan.json influence.json -o layers.html --title Layers
    """
    if out.suffix not in (".html", ".md", ".json"):
        raise click.UsageError(f"{out}: the name must end in .html, .md or .json")
    found: list[Results] = []
    plots: list[Figure] = []
    for path in results:
        try:
            drawn = figures_of(read_json(path))
        except FormatError as error:
            raise error.at(file=path) from None
        if drawn is None:
            found += load_with_base(path)
        else:
            plots += drawn
    made = compute_report(merge_results(found), title=title, plots=plots)
    if out.suffix == ".html":
        text = render_html(made)
    elif out.suffix == ".md":
        text = render_markdown(made)
    else:
        text = json.dumps(made.to_json(), indent=1, ensure_ascii=False) + "\n"
    save_text(out, text, force=force, inputs=results)
