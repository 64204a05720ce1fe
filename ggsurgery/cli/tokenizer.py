"""tokenizer check: whether a file's vocabulary means what its model was trained with."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import FormatError
from ..files.text import read_corpus
from ..runtime import worker
from ..tokenizer.check import SAMPLES, check_tokenizer
from ._files import FILE
from ._output import echo, json_option, print_json, table
from ._progress import progress_bar
from ._texts import text_option


@click.group()
def tokenizer() -> None:
    """Check a file's tokenizer.

    \b
    Example:
      ggsurgery tokenizer check model.gguf
    """


@tokenizer.command()
@click.argument("file", metavar="FILE", type=FILE)
@text_option("UTF-8 text whose lines are tried; default: a few samples.")
@json_option
@click.pass_context
def check(ctx: click.Context, file: Path, text: Path | None, as_json: bool) -> None:
    """Compare llama.cpp's tokens with another tokenizer's and look for faults.

    A SentencePiece vocabulary is rebuilt from the header and run by the package
    sentencepiece; of a BPE vocabulary the merges, bytes and special tokens are checked. Every
    line has to come back from its tokens unchanged. Exit code 1 if there is an error.

    \b
    Example:
      ggsurgery tokenizer check model.gguf
      ggsurgery tokenizer check model.gguf --text sentences.txt
    """
    lines = read_corpus(text).split("\n") if text is not None else SAMPLES
    if not any(lines):
        raise FormatError("no text in it", file=text)
    with progress_bar(file.name, "line") as progress:
        report = worker.run(check_tokenizer, file, tuple(lines), progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        pre = f", pre-tokenizer {report.pre}" if report.pre else ""
        echo(f"{report.model}{pre}: {report.n_tokens:,} tokens")
        if report.compared:
            echo(f"compared with sentencepiece: {report.compared:,} lines")
        echo(f"came back unchanged: {report.returned:,} of {report.lines:,} lines")
        if report.findings:
            rows = [(f.level, f.check, f.message) for f in report.findings]
            echo("\n" + table(rows, ("", "check", "finding")))
        echo("no errors" if report.ok else "errors found")
    if not report.ok:
        ctx.exit(1)
