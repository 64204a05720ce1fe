"""laco: collapse layers as long as the last hidden state stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import PlanError
from ..find.laco import Attempt, Result
from ..jobs.laco import LacoRequest
from ..jobs.measured import envelope_of, write_json
from ._output import echo, print_json, table
from ._requests import Maker, output_option, perform
from ._surgery import Surgery, check_early, in_out, operate, surgery_options


@click.command()
@surgery_options(LacoRequest, skip=("file",))
@output_option(
    "log",
    "Write settings, attempts and statistics as JSON, as `release` puts them on a card.",
    old=("--log",),
)
@in_out
def laco(surgery: Surgery, make: Maker, source: Path, out: Path, log: Path | None) -> None:
    """Collapse layers step by step (LaCo), as long as the output stays similar.

    Every attempt is shown: base layer, layers merged into it, cosine of the last hidden
    state with the original's over the calibration texts, kept or not. Base layers are numbered as
    in the stack at that attempt. The defaults are from a published prune of a model of 36
    layers, with H as in the paper: the number of layers. `prune-depth` and `evaluate --baseline`
    show whether plain deletion would have been better.

    \b
    Example:
      ggsurgery laco in.gguf out.gguf --text calibration.txt --highest 28 --variant reference
      ggsurgery laco in.gguf out.gguf --text calibration.txt --threshold 0.7 --out laco.json
    """
    request = make(LacoRequest, file=source)
    inputs = (source, Path(request.text))
    check_early((source,), out, surgery, log, spared=inputs[1:])
    result = perform(request, "laco", "attempt").laco
    figures = envelope_of("laco", request) if surgery.as_json else {}
    figures["laco"] = result.to_json()
    if log is not None and not surgery.dry_run:
        write_json(log, result.to_json(), force=surgery.force, inputs=inputs)
    if not surgery.as_json:
        _show(result)
    elif not result.steps:
        print_json(figures | {"out": None})
    if not result.steps:
        advice = "Lower `threshold`, or try another `variant`."
        if all(a.similarity is None for a in result.attempts):
            advice = "No merge was possible: each attempt shows the reason."
        raise PlanError("no merge was kept, so nothing was written", file=source, hint=advice)
    operate(surgery, result.recipe.steps, [source], out, spared=inputs[1:], figures=figures)


def _show(result: Result) -> None:
    echo(
        table(
            [_row(a) for a in result.attempts],
            ("iteration", "base", "merged", "layers", "similarity", ""),
        )
    )
    facts = result.to_json()
    similarity, perplexity = facts["similarity"], result.perplexity
    echo(
        f"\n{facts['merges']} merges, {facts['rejected']} rejected, {facts['iterations']} "
        f"iterations: {facts['layers'][0]} → {facts['layers'][1]} layers "
        f"({100 * facts['removed_share']:.1f} % removed), variant {result.settings.variant}"
    )
    if similarity is not None:
        echo(
            f"similarity with the original over {similarity['texts']} texts: mean "
            f"{similarity['mean']:.4f}, min {similarity['min']:.4f}, max {similarity['max']:.4f}"
        )
    if perplexity is not None:
        echo(f"perplexity of these texts: {perplexity[0]:.2f} uncut, {perplexity[1]:.2f} cut")


def _row(attempt: Attempt) -> tuple[Any, ...]:
    verdict = attempt.note or ("kept" if attempt.accepted else "rejected")
    similarity = None if attempt.similarity is None else f"{attempt.similarity:.4f}"
    merged = ",".join(map(str, attempt.merged))
    return (attempt.iteration, attempt.base, merged, attempt.layers_before, similarity, verdict)
