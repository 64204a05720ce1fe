"""choices: multiple-choice accuracy of a file by log-probability."""

from __future__ import annotations

import click

from ..jobs.choices import ChoicesRequest
from ..jobs.measured import document_of
from ..measure.results.score import Score
from ._evaluate import note_file
from ._output import echo, json_option, print_json, table
from ._requests import perform, request_options


@click.command()
@request_options(ChoicesRequest, arguments=("file",))
@json_option
def choices(request: ChoicesRequest, as_json: bool) -> None:
    """Score multiple-choice questions: the likeliest choice counts as the answer.

    A line of the data is {"id", "query", "choices", "answer", "subject"?} with a 0-based
    answer, or BoolQ's {"id", "passage", "question", "answer"}. acc compares summed
    log-probabilities, acc_norm per character and acc_bytes per byte (both as
    lm-evaluation-harness does), acc_tokens per token (as llama-perplexity does).

    \b
    Example:
      ggsurgery choices model.gguf --data hellaswag.jsonl --limit 400
      ggsurgery choices model.gguf --data mmlu.jsonl --shots 5 --from mmlu_dev.jsonl
      ggsurgery choices model.gguf --data piqa.jsonl --style question -o piqa.json
    """
    found = perform(request, "choices", "question")
    note_file(request.out)
    scores = found.scores
    if as_json:
        print_json(document_of("choices", request, found.results))
        return
    echo(table(map(_row, scores), ("metric", "value", "error", "95 % interval")))
    asked = f"style {found.style}, {request.shots} shots, chance {found.chance:.4f}"
    echo(f"\nn = {scores[0].n}, {asked}")


def _row(score: Score) -> tuple[str, str, str, str]:
    error = "" if score.stderr is None else f"± {score.stderr:.4f}"
    return (score.metric, f"{score.value:.4f}", error, str(score.interval))
