"""kl: how far a model's predictions are from those of its base."""

from __future__ import annotations

from pathlib import Path

import click

from ..files.atomic import check_output
from ..files.text import read_corpus
from ..measure import runs
from ..measure.registry import METRICS
from ..measure.results.score import Score
from ..pipeline import cautions
from ..present.numbers import error_in_words, human_bytes
from ..runtime import worker
from ._evaluate import is_given
from ._files import FILE
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import progress_bar
from ._texts import ctx_option, parse_special_option, text_option, threads_option


@click.command()
@click.argument("files", metavar="[BASE] FILE", nargs=-1, required=True, type=FILE)
@text_option("UTF-8 text to predict.")
@ctx_option("Window.", least=4)
@click.option("--chunks", type=click.IntRange(1), help="Only the first so many windows.")
@parse_special_option
@threads_option
@click.option("--save-base", type=FILE, help="Write the base's predictions here and stop.")
@click.option("--base-file", type=FILE, help="Compare with predictions saved before.")
@click.option(
    "--top-k",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="Tokens a position that --save-base keeps.",
)
@click.option("--force", is_flag=True, help="Replace an existing --save-base file.")
@json_option
def kl(
    files: tuple[Path, ...],
    text: Path | None,
    ctx: int,
    chunks: int | None,
    parse_special: bool,
    threads: int | None,
    save_base: Path | None,
    base_file: Path | None,
    top_k: int,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the KL divergence of FILE from BASE on a text.

    Both models run side by side, window by window, so no logits are stored. Or the base is
    saved once as its likeliest tokens with the mass of the rest (0.5 MB a window at 256);
    the figure from such a file is a lower bound.

    \b
    Example:
      ggsurgery kl base.gguf cut.gguf --text wiki.test.raw --chunks 20
      ggsurgery kl base.gguf --text wiki.test.raw --save-base base.kl
      ggsurgery kl cut.gguf --base-file base.kl
    """
    wanted = 1 if save_base or base_file else 2
    if len(files) != wanted or (save_base and base_file):
        raise click.UsageError(
            "give BASE and FILE, or BASE with --save-base, or FILE with --base-file"
        )
    if base_file is not None and (text is not None or is_given("ctx") or parse_special):
        raise click.UsageError(
            "--base-file holds its own text and context: no --text, --ctx, --parse-special"
        )
    if text is None and base_file is None:
        raise click.UsageError("--text is needed (or --base-file, which holds its own)")
    if save_base is not None:
        check_output(save_base, (*files, *filter(None, [text])), force=force)
    for file in files if base_file is None else ():
        warn(*cautions.of_context(file, ctx))
    with progress_bar("kl", "window") as progress:
        if base_file is not None:
            scores = worker.run(
                runs.kl_of_base_file,
                files[0],
                base_file,
                n_windows=chunks,
                n_threads=threads,
                progress=progress,
            )
        else:
            assert text is not None
            words = read_corpus(text)
            if save_base is not None:
                worker.run(
                    runs.save_base_file,
                    files[0],
                    save_base,
                    words,
                    n_ctx=ctx,
                    n_windows=chunks,
                    k=top_k,
                    inputs=(files[0], text),
                    force=force,
                    parse_special=parse_special,
                    n_threads=threads,
                    progress=progress,
                )
                note(f"{save_base}: {human_bytes(save_base.stat().st_size)}")
                return
            scores = worker.run(
                runs.kl_of_files,
                files[0],
                files[1],
                words,
                n_ctx=ctx,
                n_windows=chunks,
                parse_special=parse_special,
                n_threads=threads,
                progress=progress,
            )
    if base_file is not None and scores[0].provenance.get("over_trained"):
        warn(f"{files[-1]}: the window is larger than the context the model was trained with")
    if as_json:
        print_json([s.to_json() for s in scores])
        return
    echo(table(map(_row, scores), ("", "value", "error", "")))
    lower = "; a lower bound (top-k base file)" if scores[0].provenance.get("lower_bound") else ""
    echo(f"\n{scores[0].n} positions, in nats{lower}")


def _row(score: Score) -> tuple[str, str, str, str]:
    error = error_in_words(score.stderr, score.interval, 6)
    return (METRICS[score.metric].label, f"{score.value:.6f}", error, score.metric)
