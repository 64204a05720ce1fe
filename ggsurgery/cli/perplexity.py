"""perplexity: how well a model predicts a text, to the digits of llama-perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..files.text import read_corpus
from ..measure.metrics.perplexity import Perplexity, perplexity_of_file
from ..pipeline import cautions
from ..runtime import worker
from ._files import FILE
from ._output import echo, json_option, print_json, table, warn
from ._progress import progress_bar
from ._texts import ctx_option, parse_special_option, text_option, threads_option


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@text_option("UTF-8 text to predict.", required=True)
@ctx_option("Tokens of a chunk.", least=4)
@click.option("--chunks", type=click.IntRange(1), help="Only the first so many chunks.")
@click.option("--bos/--no-bos", default=None, help="Override whether BOS precedes each chunk.")
@parse_special_option
@threads_option
@json_option
def perplexity(
    files: tuple[Path, ...],
    text: Path,
    ctx: int,
    chunks: int | None,
    bos: bool | None,
    parse_special: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the perplexity of one or more files on a text.

    The definition is llama-perplexity's: chunks of --ctx tokens, the second half of each
    scored. Figures compare only at equal text, --ctx and --chunks.

    \b
    Example:
      ggsurgery perplexity model.gguf --text wiki.test.raw
      ggsurgery perplexity in.gguf out.gguf --text wiki.test.raw --ctx 1024 --chunks 20
    """
    words = read_corpus(text)
    for file in files:
        warn(*cautions.of_context(file, ctx))
    found = []
    for file in files:
        with progress_bar(file.name, "chunk") as progress:
            found.append(
                worker.run(
                    perplexity_of_file,
                    file,
                    words,
                    n_ctx=ctx,
                    n_chunks=chunks,
                    add_bos=bos,
                    n_threads=threads,
                    parse_special=parse_special,
                    progress=progress,
                )
            )
    if as_json:
        results = [_json(f, text.name) for f in found]
        print_json(results[0] if len(results) == 1 else results)
        return
    echo(_table(found))


def _json(found: Perplexity, text: str) -> dict[str, Any]:
    document = found.to_json()
    return {**document, "provenance": {**document["provenance"], "text": text}, "text": text}


def _table(found: list[Perplexity]) -> str:
    first = found[0].value
    rows = [
        (
            str(f.file),
            f"{f.value:.4f}",
            f"± {f.stderr:.4f}",
            f"{f.value / first:.4f}",
            len(f.chunks),
            f.n,
            "yes" if f.add_bos else "no",
        )
        for f in found
    ]
    header = ("file", "perplexity", "error", "ratio", "chunks", "tokens scored", "BOS")
    if len(found) == 1:
        rows = [r[:3] + r[4:] for r in rows]  # type: ignore[misc]
        header = header[:3] + header[4:]  # type: ignore[assignment]
    return table(rows, header)
