"""bench: public benchmarks through lm-evaluation-harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..files.atomic import check_output
from ..measure.bench.run import N_CTX, require_harness, run_bench
from ..measure.draw import SEED
from ..measure.results.score import Score
from ..pipeline import cautions
from ..present.numbers import error_in_words
from ..runtime import worker
from ._evaluate import save_text
from ._files import FILE
from ._output import echo, json_option, print_json, table, warn
from ._progress import progress_bar
from ._texts import ctx_option


@click.command()
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--tasks", required=True, metavar="A,B,…", help="The harness's task names.")
@click.option("--data", type=FILE, help="Folder of question files: no network is used.")
@click.option("--include-path", type=FILE, help="Folder of your own task files.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="Questions of each task; with --data drawn, the same share a subject.",
)
@click.option("--limit-seed", default=SEED, show_default=True, help="Which ones --limit draws.")
@click.option("--shots", type=click.IntRange(0), help="Solved examples; the task's own number.")
@click.option("--chat", is_flag=True, help="Ask through the file's chat template.")
@ctx_option("Context; longer prompts lose their beginning.", least=64, default=N_CTX)
@click.option("-o", "--out", type=FILE, help="Write the results in the harness's JSON form.")
@click.option("--force", is_flag=True, help="Replace an existing results file.")
@json_option
def bench(
    file: Path,
    tasks: str,
    data: Path | None,
    include_path: Path | None,
    limit: int | None,
    limit_seed: int,
    shots: int | None,
    chat: bool,
    ctx: int,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run tasks of lm-evaluation-harness on a file.

    With --data, the tasks arc_challenge, arc_easy, boolq, gsm8k, hellaswag, mmlu, piqa and
    winogrande read local JSON-lines files, worded and scored as the harness's own tasks of
    the same name. Needs the extra: pip install '.[bench]'.

    \b
    Example:
      ggsurgery bench model.gguf --tasks hellaswag,piqa --data questions/ --limit 400
      ggsurgery bench model.gguf --tasks gsm8k --data questions/ --chat -o gsm8k.json
    """
    require_harness()
    if out is not None:  # refused before an hour of work, not after it
        check_output(out, (file,), force=force)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--tasks names no task")
    warn(*cautions.of_context(file, ctx))
    with progress_bar("bench", "request") as progress:
        found = worker.run(
            run_bench,
            file,
            names,
            data=data,
            include_path=include_path,
            limit=limit,
            limit_seed=limit_seed,
            shots=shots,
            chat=chat,
            n_ctx=ctx,
            progress=progress,
        )
    warn(*cautions.of_truncated(found.n_truncated, ctx))
    if out is not None:
        text = json.dumps(found.document, indent=1, ensure_ascii=False) + "\n"
        save_text(out, text, force=force, inputs=(file,))
    if as_json:
        print_json(found.document)
        return
    echo(
        table(map(_row, found.scores), ("task", "metric", "value", "error", "n", "shots", "chance"))
    )


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
