"""laco: collapse layers as long as the last hidden state stays the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import PlanError
from ..files.atomic import atomic_path
from ..files.text import read_corpus
from ..find.laco import METHODS, Attempt, Result, Settings, laco_of_file, split_text
from ..jobs import cautions
from ..runtime import worker
from ._files import FILE
from ._output import echo, print_json, table, warn
from ._progress import progress_bar
from ._surgery import Options, check_early, in_out, operate, surgery_options
from ._texts import ctx_option, parse_special_option, text_option, threads_option


@click.command()
@surgery_options
@click.option("--merge-layers", default=3, show_default=True, help="C: layers that become one.")
@click.option("--lowest", type=int, help="L: no merge below this layer; default: 4, or H − C.")
@click.option(
    "--highest", type=int, help="H: merging starts at H − C; default: the number of layers."
)
@click.option("--interval", default=2, show_default=True, help="I: down by so many after a merge.")
@click.option("--threshold", default=0.85, show_default=True, help="T: cosine to keep a merge.")
@click.option(
    "--max-compression", default=0.30, show_default=True, help="Share of layers to lose at most."
)
@click.option(
    "--variant",
    default="paper",
    show_default=True,
    type=click.Choice(list(METHODS)),
    help="paper: Eq. 1, every tensor. reference: what LaCo's published code really computes, "
    "the last merged layer's projections with the base's norms. damped: Eq. 1 with the "
    "differences times --factor.",
)
@click.option("--factor", type=float, help="Of `damped`; default 0.5.")
@text_option("Calibration: UTF-8 text, cut into --texts pieces.", required=True)
@click.option("--texts", default=10, show_default=True, type=click.IntRange(1), help="Pieces.")
@ctx_option("Tokens of a piece.", least=8, default=256)
@parse_special_option
@threads_option
@click.option(
    "--log",
    type=FILE,
    help="Write settings, attempts and statistics as JSON, as `release` puts them on a card.",
)
@in_out
def laco(
    options: Options,
    source: Path,
    out: Path,
    text: Path,
    texts: int,
    ctx: int,
    parse_special: bool,
    threads: int | None,
    log: Path | None,
    **numbers: Any,
) -> None:
    """Collapse layers step by step (LaCo), as long as the output stays similar.

    Every attempt is shown: base layer, layers merged into it, cosine of the last hidden
    state with the original's over the calibration texts, kept or not. Base layers are
    numbered as the stack stands at that attempt. The defaults are those of a published prune
    of a model of 36 layers, with H as in the paper: the number of layers. Whether plain
    deletion would have been better is for `prune-depth` and `evaluate --baseline` to say.

    \b
    Example:
      ggsurgery laco in.gguf out.gguf --text calibration.txt --highest 28 --variant reference
      ggsurgery laco in.gguf out.gguf --text calibration.txt --threshold 0.7 --log laco.json
    """
    check_early((source,), out, options, log, spared=(text,))
    settings = Settings(**numbers)
    pieces = split_text(read_corpus(text), texts)
    warn(*cautions.of_context(source, ctx))
    with progress_bar("laco", "attempt") as progress:
        result = worker.run(
            laco_of_file,
            source,
            pieces,
            settings,
            ctx,
            threads,
            options.allow_unknown_arch,
            parse_special,
            progress=progress,
        )
    if log is not None and not options.dry_run:
        with atomic_path(log, inputs=(source, text), force=options.force) as temporary:
            temporary.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
    if not result.steps:
        advice = "Lower --threshold, or try another --variant."
        if all(a.similarity is None for a in result.attempts):
            advice = "No merge was possible: the attempts name the reason."
        if options.as_json:
            print_json({"laco": result.to_json(), "out": None})
        else:
            _show(result)
        raise PlanError("no merge was kept, so nothing was written", file=source, hint=advice)
    if not options.as_json:
        _show(result)
    if result.perplexity is not None:
        warn(*cautions.of_loss(*result.perplexity))
    recipe, figures = options.recipe(result.recipe.steps), {"laco": result.to_json()}
    operate(recipe, (source,), out, options, spared=(text,), figures=figures)


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
