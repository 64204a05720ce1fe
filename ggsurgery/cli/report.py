"""report: result files as one page that can be sent to anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import FormatError
from ..files.fields import read_json
from ..measure.results.result_files import Results, load_with_base, merge_results
from ..report.compute import compute_report, is_scan, scan_series
from ..report.html import render_html
from ..report.markdown import render_markdown
from ._evaluate import save_text
from ._files import FILE


@click.command()
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True, type=FILE)
@click.option("-o", "--out", required=True, type=FILE, help="FILE.html, FILE.md or FILE.json.")
@click.option("--title", default="Evaluation", show_default=True, help="Of the page.")
@click.option("--force", is_flag=True, help="Replace an existing report.")
def report(results: tuple[Path, ...], out: Path, title: str, force: bool) -> None:
    """Put result files into one report; the first model is the base.

    RESULTS are files written with `evaluate -o`, `choices -o`, `bench -o`, by --json
    (`perplexity`, `kl`, `scan` …), or by lm-evaluation-harness. The HTML page needs nothing
    else, no network and no script; it reads well on a phone and in the dark.

    \b
    Example:
      ggsurgery report base.json cut.json -o report.html
      ggsurgery report base.json scan.json -o report.md --title "Which layers matter"
    """
    if out.suffix not in (".html", ".md", ".json"):
        raise click.UsageError(f"{out}: the name must end in .html, .md or .json")
    found: list[Results] = []
    scans: list[dict[str, Any]] = []
    for path in results:
        document = read_json(path)
        if is_scan(document):
            try:
                scan_series(document)
            except FormatError as error:
                raise error.at(file=path) from None
            scans.append(document)
        else:
            found += load_with_base(path)
    if not found:
        raise FormatError(
            "no results of a model among the files", expected="at least one result file",
            found=f"{len(scans)} scans",
        )  # fmt: skip
    made = compute_report(merge_results(found), title=title, scans=scans)
    if out.suffix == ".html":
        text = render_html(made)
    elif out.suffix == ".md":
        text = render_markdown(made)
    else:
        text = json.dumps(made.to_json(), indent=1, ensure_ascii=False) + "\n"
    save_text(out, text, force=force, inputs=results)
