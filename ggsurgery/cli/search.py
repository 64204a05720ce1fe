"""search: try configurations within a budget, on one machine or many."""

from __future__ import annotations

from typing import Any

import click

from ..find.search.report import Verdict
from ..find.search.run import Outcome
from ..jobs.search import SearchRequest
from ..measure.controls import UNCUT
from ..measure.results.comparison import is_logarithmic
from ..measure.results.score import Score
from ..present.numbers import figure_in_words
from ._measuring import in_words
from ._output import echo, json_option, note, print_json, table
from ._progress import named_progress_bar
from ._requests import request_options, warn_of


@click.command()
@request_options(SearchRequest, arguments=("file",))
@json_option
def search(request: SearchRequest, as_json: bool) -> None:
    """Search for operations that cost least (or help), within a budget.

    Equal configurations are measured once. Stop and run the same command again to continue. Run it
    on other machines with the same --storage to share the work. The more configurations were tried,
    the more the best figure is due to chance: --report-text measures the winner and its controls on
    a text that the search has not seen.

    \b
    Example:
      ggsurgery search in.gguf --study cuts --space delete,merge --max-ops 3 --budget 200 \\
          --text calibration.txt --report-text other.txt
      ggsurgery search in.gguf --study cuts --storage postgresql://me@db/studies --budget 2h \\
          --text calibration.txt
    """
    warn_of(request, request.check())
    with named_progress_bar("configuration") as stages:
        found = request.run(stages=stages)
    if request.recipes is not None:
        note(f"{found.n_recipes} recipes in {request.recipes}: `ggsurgery apply` takes them")
    if as_json:
        print_json(found.document)
        return
    _show(found.outcome, request.top, request.objective, request.second)
    if found.verdict is not None:
        echo()
        _show_verdict(found.verdict)
    warn_of(request, found.warnings)


def _show(found: Outcome, top: int, objective: str, second: str | None) -> None:
    front = {r.number for r in found.front}
    rows: list[list[Any]] = []
    for rank, row in enumerate(found.ranked, 1):
        if rank > top and not row.hand_made:
            continue
        cells = [
            rank,
            row.recipe.describe(),
            figure_in_words(row.values[0], row.stderr, row.interval),
            row.number,
        ]
        notes = ["hand-made"] * row.hand_made
        if second is not None:
            cells.append(f"{row.values[1]:,.0f}")
            notes += ["front"] * (row.number in front)
        rows.append([*cells, ", ".join(notes)])
    header = ["rank", "operations", objective.partition(":")[0], "trial"]
    if second is not None:
        header.append("bytes" if second == "size" else "tokens/s")
    for row in found.rows:
        if row.hand_made and row.error is not None:
            blank = [None] * (len(header) - 4)
            rows.append([None, row.recipe.describe(), None, row.number, *blank, row.error])
    header.append("")
    echo(table(rows, header))
    failed = found.tried - len(found.ranked)
    note(f"{found.tried} configurations tried, {failed} of them rejected, stopped early or crashed")


def _show_verdict(verdict: Verdict) -> None:
    metric = verdict.metric.partition(":")[0]
    what = "log ratio to winner" if is_logarithmic(metric) else "difference to winner"
    rows: list[tuple[Any, ...]] = [
        ("winner: " + verdict.winner.recipe.describe(), in_words(verdict.measured), "", "")
    ]
    if UNCUT not in (o.control.name for o in verdict.controls):
        rows.append((UNCUT, in_words(verdict.base), in_words(-verdict.to_base), ""))
    for o in verdict.controls:
        score = o.score if isinstance(o.score, Score) else None
        rows.append((o.control.name, in_words(score), in_words(o.difference), o.refused or ""))
    echo(table(rows, ("on the reporting set", metric, what, "")))
    note(f"the winner of {verdict.tried} configurations; errors are paired")
    if verdict.unbeaten:
        names = "; ".join(verdict.unbeaten)
        note(f"not shown to be better ({verdict.rule}) than: {names}")
    elif len(verdict.controls) > len(verdict.unmeasured):
        note(f"better than every control ({verdict.rule})")
    if verdict.unmeasured:
        note(f"could not be measured: {'; '.join(verdict.unmeasured)}")
