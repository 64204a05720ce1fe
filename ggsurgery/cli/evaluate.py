"""evaluate: the surgery suite on a file, against its base and against cheap alternatives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..files.atomic import check_output
from ..measure import runs
from ..measure.control_runs import alternatives, measure_alternatives
from ..measure.controls import Control, Outcome, verdict
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..measure.suite.data import load_weights
from ..measure.suite.result import SurgeryScore, compare_surgery
from ..pipeline import cautions
from ..runtime import worker
from ._evaluate import comparison_table, control_table, is_given, save_results, suite_table
from ._files import FILE
from ._output import echo, json_option, print_json, warn
from ._progress import named_progress_bar, progress_bar


@click.command()
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--baseline", metavar="BASE", type=FILE, help="The uncut model to compare with.")
@click.option(
    "--suite",
    type=click.Choice(["surgery"]),
    default="surgery",
    show_default=True,
    help="Which questions.",
)
@click.option(
    "--length",
    type=click.Choice(["default", "long"]),
    default="default",
    show_default=True,
    help="30 factual questions or 118.",
)
@click.option("--weights", type=FILE, help="Your own weights.toml instead of the package's.")
@click.option("--limit", type=click.IntRange(2), help="At most so many items a part (a trial).")
@click.option("--no-controls", is_flag=True, help="With --baseline: leave the controls out.")
@click.option(
    "--random",
    "n_random",
    default=3,
    show_default=True,
    type=click.IntRange(0),
    help="How many random deletions to compare with.",
)
@click.option("--seed", default=0, show_default=True, help="Of the random deletions.")
@click.option("-o", "--out", type=FILE, help="Write all results, with every answer, to a file.")
@click.option("--force", is_flag=True, help="Replace an existing results file.")
@json_option
def evaluate(
    file: Path,
    baseline: Path | None,
    suite: str,
    length: str,
    weights: Path | None,
    limit: int | None,
    no_controls: bool,
    n_random: int,
    seed: int,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Score a file from 0 to 100, and say what the score is worth.

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
    if baseline is None and (no_controls or is_given("n_random") or is_given("seed")):
        raise click.UsageError("--no-controls, --random and --seed go with --baseline")
    if out is not None:  # refused before an hour of work, not after it
        check_output(out, (file, *filter(None, [baseline, weights])), force=force)
    settings = {"length": length, "weights": load_weights(weights), "limit": limit}
    facts = model_facts(file)
    base_facts = None if baseline is None else model_facts(baseline)
    controls: list[Control] = []
    if baseline is not None and not no_controls:  # refuse what cannot be built before the work
        controls = alternatives(file, baseline, n_random=n_random, seed=seed)
    score = _measure(file, settings)
    if not as_json:
        echo(suite_table(score))
    warn(*cautions.of_limit(limit))
    results = Results(facts, suite=score)
    if baseline is not None and base_facts is not None:
        base_score = _measure(baseline, settings)
        comparisons = compare_surgery(base_score, score)
        if not as_json:
            echo(f"\nagainst {baseline} ({base_score.total:.1f})\n")
            echo(comparison_table(comparisons))
        outcomes: list[Outcome] = []
        line = None
        if not no_controls:
            outcomes = _outcomes(score, controls, baseline, base_score, settings)
            line = verdict(score, outcomes)
            if not as_json:
                echo(f"\n{control_table(outcomes)}\n\n{line}")
        results = Results(
            facts,
            suite=score,
            baseline=str(baseline),
            verdict=line,
            comparisons=tuple(c.to_json() for c in comparisons),
            controls=tuple(o.to_json() for o in outcomes),
            extra={"base": Results(base_facts, suite=base_score).to_json()},
        )
    if out is not None:
        save_results(out, results, force=force)
    if as_json:
        print_json(results.to_json())


def _measure(
    file: Path, settings: dict[str, Any], tell: Callable[[int, int], None] | None = None
) -> SurgeryScore:
    if tell is not None:
        return worker.run(runs.suite_of_file, file, progress=tell, **settings)
    with progress_bar(file.name, "step") as progress:
        return worker.run(runs.suite_of_file, file, progress=progress, **settings)


def _outcomes(
    score: SurgeryScore,
    controls: list[Control],
    baseline: Path,
    base_score: SurgeryScore,
    settings: dict[str, Any],
) -> list[Outcome]:
    name = [""]
    with named_progress_bar() as tell:

        def start(control: str, done: int, total: int) -> None:
            name[0] = control

        def measure(path: Path) -> SurgeryScore:
            if path == baseline:  # the uncut model as a control: measured already
                return base_score
            return _measure(path, settings, lambda done, total: tell(name[0], done, total))

        return measure_alternatives(score, controls, baseline, measure, start)
