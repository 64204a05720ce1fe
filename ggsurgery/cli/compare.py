"""compare: result files of several models, metric by metric, paired."""

from __future__ import annotations

import click

from ..jobs.compare import CompareRequest
from ._evaluate import comparison_table
from ._output import echo, json_option, note, print_json
from ._requests import perform, request_options


@click.command()
@request_options(CompareRequest, several="files")
@json_option
def compare(request: CompareRequest, as_json: bool) -> None:
    """Compare result files with the first of them, question by question.

    Right/wrong answers go through McNemar's exact test, other figures through a paired bootstrap;
    differences that are not significant are marked. Result files come from `evaluate -o`, `choices
    -o`, `perplexity --json` and `bench`.

    \b
    Example:
      ggsurgery evaluate base.gguf -o base.json
      ggsurgery evaluate cut.gguf -o cut.json
      ggsurgery compare base.json cut.json
    """
    found = perform(request, "compare", "file")
    if as_json:
        print_json(found.to_json())
        return
    for name, pairs in found.pairs:
        echo(f"{name}\n\n{comparison_table(pairs)}\n")
    tests, lost = found.tests
    if lost:
        note(
            f"{tests} tests were made; {lost} of the differences called here would not be "
            f"significant after correction for that (Holm)"
        )
