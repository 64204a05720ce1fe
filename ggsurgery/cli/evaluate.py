"""evaluate: the surgery suite on a file, against its base and against cheap alternatives."""

from __future__ import annotations

import click

from ..jobs.evaluate import EvaluateRequest, EvaluateResult
from ..jobs.measured import document_of
from ._evaluate import comparison_table, control_table, note_file, suite_table
from ._output import echo, json_option, print_json
from ._progress import progress_bar
from ._requests import request_options, warn_of


@click.command()
@request_options(EvaluateRequest, arguments=("file",))
@click.option("--suite", type=click.Choice(["surgery"]), default="surgery", hidden=True)
@json_option
def evaluate(request: EvaluateRequest, suite: str, as_json: bool) -> None:
    """Score a file from 0 to 100, and test what the score is worth.

    The suite asks factual questions, scores coherence, bits per byte, repetition, the
    thinking switch and stop tokens; answers are greedy, so a run repeats exactly. With
    --baseline the difference is tested question by question, and the controls are built and
    measured: the uncut model at a lower quantization of about the same size, as many random
    layers deleted, and the last layers but one.

    \b
    Example:
      ggsurgery evaluate model.gguf
      ggsurgery evaluate cut.gguf --baseline base.gguf -o cut.json
      ggsurgery evaluate cut.gguf --length long --weights mine.toml --json
    """
    warn_of(request, request.check())
    with progress_bar("evaluate", "step") as progress:
        found = request.run(progress, None if as_json else lambda part: _show(request, part))
    note_file(request.out)
    if as_json:
        print_json(document_of("evaluate", request, found.results))


def _show(request: EvaluateRequest, found: EvaluateResult) -> None:
    """The part of a result that was measured last."""
    if found.outcomes:
        echo(f"\n{control_table(found.outcomes)}\n\n{found.results.verdict}")
    elif found.base is not None:
        echo(f"\nagainst {request.baseline} ({found.base.total:.1f})\n")
        echo(comparison_table(found.comparisons))
    else:
        echo(suite_table(found.score))
