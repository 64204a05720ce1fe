"""bench: public benchmarks through lm-evaluation-harness."""

from __future__ import annotations

from typing import Any

import click

from ..jobs.bench import BenchRequest
from ..measure.results.score import Score
from ..present.numbers import error_in_words
from ._evaluate import note_file
from ._output import echo, json_option, print_json, table
from ._requests import perform, request_options


@click.command()
@request_options(BenchRequest, arguments=("file",))
@json_option
def bench(request: BenchRequest, as_json: bool) -> None:
    """Run tasks of lm-evaluation-harness on a file.

    With --data, the tasks arc_challenge, arc_easy, boolq, gsm8k, hellaswag, mmlu, piqa and
    winogrande read local JSON-lines files, worded and scored as the harness's own tasks of
    the same name. Needs the extra: pip install '.[bench]'.

    \b
    Example:
      ggsurgery bench model.gguf --tasks hellaswag,piqa --data questions/ --limit 400
      ggsurgery bench model.gguf --tasks gsm8k --data questions/ --chat -o gsm8k.json
    """
    found = perform(request, "bench", "request")
    note_file(request.out)
    if as_json:
        print_json(found.document)
        return
    header = ("task", "metric", "value", "error", "n", "shots", "chance")
    echo(table(map(_row, found.scores), header))


def _row(score: Score) -> tuple[Any, ...]:
    chance = score.provenance.get("chance")
    return (
        score.task,
        score.metric,
        f"{score.value:.4f}",
        error_in_words(score.stderr, score.interval, 4),
        score.n,
        score.provenance.get("shots", 0),
        None if chance is None else f"{chance:.4f}",
    )
