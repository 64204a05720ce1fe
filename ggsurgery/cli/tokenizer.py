"""tokenizer check: whether a file's vocabulary means what its model was trained with."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import FormatError
from ..files.text import read_corpus
from ..runtime import worker
from ..surgery.vocab_map import map_of_file
from ..tokenizer.check import SAMPLES, check_tokenizer
from ..tokenizer.compare import Comparison, compare_with_original
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
@click.option("--original", type=FILE, help="Of a trimmed file: the file that it was made from.")
@click.option("--map", "map_file", type=FILE, help="With --original: the map; default: FILE's.")
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    file: Path,
    text: Path | None,
    original: Path | None,
    map_file: Path | None,
    as_json: bool,
) -> None:
    """Compare llama.cpp's tokens with another tokenizer's and look for faults.

    A SentencePiece vocabulary is rebuilt from the header and run by the package
    sentencepiece; of a BPE vocabulary the merges, bytes and special tokens are checked. Every
    line has to come back from its tokens unchanged. Exit code 1 if there is an error.

    With --original, a vocabulary that `vocab trim` trimmed is compared with the one before:
    the same ids up to the map where all tokens of a line stayed, the same text everywhere.

    \b
    Example:
      ggsurgery tokenizer check model.gguf
      ggsurgery tokenizer check model.gguf --text sentences.txt
      ggsurgery tokenizer check smaller.gguf --original model.gguf --text sentences.txt
    """
    if map_file is not None and original is None:
        raise click.UsageError("--map goes with --original")
    kept = None if original is None else map_of_file(file, map_file)
    lines = read_corpus(text).split("\n") if text is not None else SAMPLES
    if not any(lines):
        raise FormatError("no text in it", file=text)
    with progress_bar(file.name, "line") as progress:
        report = worker.run(check_tokenizer, file, tuple(lines), progress=progress)
    compared: Comparison | None = None
    if kept is not None:
        with progress_bar(file.name, "line") as progress:
            compared = worker.run(
                compare_with_original, file, original, kept, tuple(lines), progress=progress
            )
    ok = report.ok and (compared is None or compared.ok)
    if as_json:
        more = {} if compared is None else {"original": compared.to_json()}
        print_json(report.to_json() | more)
    else:
        pre = f", pre-tokenizer {report.pre}" if report.pre else ""
        echo(f"{report.model}{pre}: {report.n_tokens:,} tokens")
        if report.compared:
            echo(f"compared with sentencepiece: {report.compared:,} lines")
        echo(f"came back unchanged: {report.returned:,} of {report.lines:,} lines")
        if report.findings:
            rows = [(f.level, f.check, f.message) for f in report.findings]
            echo("\n" + table(rows, ("", "check", "finding")))
        if compared is not None:
            _show(compared)
        echo("no errors" if ok else "errors found")
    if not ok:
        ctx.exit(1)


def _show(found: Comparison) -> None:
    before, after = found.tokens
    echo(f"\nall tokens stayed: {found.whole:,} of {found.lines:,} lines")
    echo(f"same ids up to the map: {found.mapped:,} of {found.whole:,}")
    echo(f"same text as the original: {found.returned:,} of {found.lines:,}")
    echo(f"tokens: {before:,} → {after:,}")
    if found.wrong:
        echo(f"first wrong line: {found.wrong[:60]!r}")
