"""choices: multiple-choice accuracy of a file by log-probability."""

from __future__ import annotations

from pathlib import Path

import click

from ..files.atomic import check_output
from ..measure import runs
from ..measure.draw import SEED, draw_questions
from ..measure.questions import STYLES, guess_style, load_questions, prompts
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..measure.results.score import Score
from ..pipeline import cautions
from ..runtime import worker
from ._evaluate import save_results
from ._files import FILE
from ._output import echo, json_option, print_json, table, warn
from ._progress import progress_bar
from ._texts import ctx_option


@click.command()
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--data", required=True, type=FILE, help="Questions as JSON lines.")
@click.option(
    "--shots",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    metavar="K",
    help="Solved examples in front of each question.",
)
@click.option("--from", "dev", type=FILE, help="Where the solved examples come from.")
@click.option(
    "--style",
    type=click.Choice(sorted(STYLES)),
    help="How a question is worded; by its fields if not given.",
)
@click.option(
    "--limit", type=click.IntRange(1), help="Draw so many questions, the same share a subject."
)
@click.option("--limit-seed", default=SEED, show_default=True, help="Which ones --limit draws.")
@ctx_option("Context; as large as needed if not given.", least=8, default=None)
@click.option("-o", "--out", type=FILE, help="Write the results, with every answer, to a file.")
@click.option("--force", is_flag=True, help="Replace an existing results file.")
@json_option
def choices(
    file: Path,
    data: Path,
    shots: int,
    dev: Path | None,
    style: str | None,
    limit: int | None,
    limit_seed: int,
    ctx: int | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
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
    if bool(shots) != bool(dev):
        raise click.UsageError("--shots and --from go together")
    if out is not None:  # refused before an hour of work, not after it
        check_output(out, (file, data, *filter(None, [dev])), force=force)
    questions = draw_questions(load_questions(data), limit, limit_seed)
    chosen = style or guess_style(questions)
    examples = load_questions(dev) if dev is not None else []
    prompted = prompts(questions, chosen, shots=shots, examples=examples)
    facts = {
        "task": data.stem,
        "style": chosen,
        "shots": shots,
        "limit": limit,
        "limit_seed": None if limit is None else limit_seed,
        "chance": sum(1 / len(q.choices) for q in questions) / len(questions),
    }
    longest, trained = worker.run(runs.longest_of_file, file, prompted)
    warn(*cautions.of_prompts(file, longest, trained))
    with progress_bar("choices", "question") as progress:
        scores = worker.run(
            runs.choices_of_file,
            file,
            prompted,
            facts=facts,
            n_ctx=ctx,
            longest=longest,
            progress=progress,
        )
    if out is not None:
        save_results(out, Results(model_facts(file), scores), force=force)
    if as_json:
        print_json([s.to_json() for s in scores])
        return
    header = ("metric", "value", "error", "95 % interval")
    echo(table(map(_row, scores), header))
    echo(f"\nn = {len(questions)}, style {chosen}, {shots} shots, chance {facts['chance']:.4f}")


def _row(score: Score) -> tuple[str, str, str, str]:
    error = "" if score.stderr is None else f"± {score.stderr:.4f}"
    return (score.metric, f"{score.value:.4f}", error, str(score.interval))
