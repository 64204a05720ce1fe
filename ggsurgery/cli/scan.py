"""scan: every single operation of a kind, measured against the uncut model."""

from __future__ import annotations

from pathlib import Path

import click

from ..find.scan import Scan
from ..jobs.scan import ScanRequest
from ..measure.results.comparison import is_logarithmic
from ._measuring import in_words
from ._output import echo, json_option, note, print_json, table
from ._requests import perform, request_options


@click.command()
@request_options(ScanRequest, arguments=("file",))
@json_option
def scan(request: ScanRequest, as_json: bool) -> None:
    """Do one operation at every place, and measure each.

    Leave-one-out (--op delete) shows which layer matters least. Layers before the change are not
    computed again, and no file is left behind. A candidate that is refused or crashes becomes a row
    with the reason.

    \b
    Example:
      ggsurgery scan model.gguf --text calibration.txt --journal scan.jsonl
      ggsurgery scan model.gguf --op prune --metric choices:mmlu.jsonl --plot prune.png
    """
    name = f"{request.operation} of {Path(request.file).name}"
    found = perform(request, name, "candidate")
    if as_json:
        print_json(found.document)
    else:
        _show(found.scan)


def _show(found: Scan) -> None:
    ranks = {id(t): i + 1 for i, t in enumerate(found.ranked())}
    rows = []
    for trial, p_value in zip(found.trials, found.corrected, strict=True):
        value, difference = trial.measured, trial.difference
        rows.append(
            (
                trial.recipe.describe(),
                in_words(value),
                in_words(difference),
                None if p_value is None else f"{p_value:.4f}",
                ranks.get(id(trial)),
                f"{trial.seconds:.1f} s",
                trial.error or "",
            )
        )
    what = "log ratio to uncut" if is_logarithmic(found.metric) else "difference to uncut"
    metric, _, data = found.metric.partition(":")
    measured = f"{metric} {Path(data).stem}" if data else metric
    echo(table(rows, ("operation", measured, what, "p (Holm)", "rank", "time", "")))
    base = in_words(found.base)
    tests = f"; p: {found.tests}, for {len(found.trials)} candidates" if found.tests else ""
    note(
        f"uncut: {base} (n = {found.base.n}); errors are paired, window by window or "
        f"question by question{tests}"
    )
    best = next(iter(found.ranked()), None)
    if best is not None and len(found.trials) > 1:
        note(
            f"{len(found.trials)} candidates were tried: the best figure is biased by the "
            f"selection. Measure it again on another text before you rely on it."
        )
