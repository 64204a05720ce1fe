"""compare: result files of several models, metric by metric, paired."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import FormatError, GGSurgeryError
from ..measure.results.comparison import Comparison, compare_all
from ..measure.results.result_files import Results, load_results, load_with_base
from ..measure.results.statistics import holm
from ..measure.suite.result import compare_surgery
from ._evaluate import comparison_table
from ._files import FILE
from ._output import echo, json_option, note, print_json


@click.command()
@click.argument("results", metavar="BASE.json FILE.json...", nargs=-1, required=True, type=FILE)
@json_option
def compare(results: tuple[Path, ...], as_json: bool) -> None:
    """Compare result files with the first of them, question by question.

    Right/wrong answers go through McNemar's exact test, other figures through a paired
    bootstrap; what is not distinguishable is said to be so. Result files come from
    `evaluate -o`, `choices -o`, `perplexity --json` and `bench`.

    \b
    Example:
      ggsurgery evaluate base.gguf -o base.json
      ggsurgery evaluate cut.gguf -o cut.json
      ggsurgery compare base.json cut.json
    """
    load = load_with_base if len(results) == 1 else load_results
    loaded = [(path, item) for path in results for item in load(path)]
    if len(loaded) < 2:
        raise click.UsageError("give the base's result file and at least one other")
    _, base = loaded[0]
    found: list[tuple[str, list[Comparison]]] = []
    for path, other in loaded[1:]:
        pairs = _pairs(base, other)
        if not pairs:
            raise FormatError(
                "no metric in common with the base",
                file=path,
                expected=", ".join(s.label for s in base.all_scores) or "any score",
                found=", ".join(s.label for s in other.all_scores) or "none",
            )
        found.append((f"{other.model.name} against {base.model.name}", pairs))
    if as_json:
        print_json([{"comparison": name, "metrics": [c.to_json() for c in p]} for name, p in found])
        return
    for name, pairs in found:
        echo(f"{name}\n\n{comparison_table(pairs)}\n")
    tests = [c.p_value for _, pairs in found for c in pairs if c.p_value is not None]
    lost = sum(p < 0.05 <= q for p, q in zip(tests, holm(tests), strict=True))
    if lost:
        note(
            f"{len(tests)} tests were made; {lost} of the differences called here would not "
            "stand a correction for that (Holm)"
        )


def _pairs(base: Results, other: Results) -> list[Comparison]:
    suites: list[Comparison] = []
    if base.suite is not None and other.suite is not None:
        try:
            suites = compare_surgery(base.suite, other.suite)
        except GGSurgeryError as error:
            note(f"{other.model.name}: {error}")
    return suites + compare_all(base.scores, other.scores)
