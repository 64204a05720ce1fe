"""tokenizer check: whether a file's vocabulary matches the one its model was trained with."""

from __future__ import annotations

from pathlib import Path

import click

from ..jobs.tokenizer import CheckTokenizerRequest, TokenizerResult
from ..tokenizer.compare import Comparison
from ._output import echo, json_option, print_json, table
from ._requests import perform, request_options


@click.group()
def tokenizer() -> None:
    """Check a file's tokenizer.

    \b
    Example:
      ggsurgery tokenizer check model.gguf
    """


@tokenizer.command()
@request_options(CheckTokenizerRequest, arguments=("file",))
@json_option
@click.pass_context
def check(ctx: click.Context, /, request: CheckTokenizerRequest, as_json: bool) -> None:
    """Compare llama.cpp's tokens with another tokenizer's and look for faults.

    A SentencePiece vocabulary is rebuilt from the header and run by the package
    sentencepiece; for a BPE vocabulary the merges, bytes and special tokens are checked. Every line
    must be restored unchanged from its tokens. Exit code 1 if there is an error.

    With --original, a vocabulary that `vocab trim` trimmed is compared with the original: the same
    ids up to the map if all tokens of a line stayed, the same text everywhere.

    \b
    Example:
      ggsurgery tokenizer check model.gguf
      ggsurgery tokenizer check model.gguf --text sentences.txt
      ggsurgery tokenizer check smaller.gguf --original model.gguf --text sentences.txt
    """
    found = perform(request, Path(request.file).name, "line")
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    if not found.ok:
        ctx.exit(1)


def _show(found: TokenizerResult) -> None:
    report = found.report
    pre = f", pre-tokenizer {report.pre}" if report.pre else ""
    echo(f"{report.model}{pre}: {report.n_tokens:,} tokens")
    if report.compared:
        echo(f"compared with sentencepiece: {report.compared:,} lines")
    echo(f"came back unchanged: {report.returned:,} of {report.lines:,} lines")
    if report.findings:
        rows = [(f.level, f.check, f.message) for f in report.findings]
        echo("\n" + table(rows, ("", "check", "finding")))
    if found.compared is not None:
        _show_compared(found.compared)
    echo("no errors" if found.ok else "errors found")


def _show_compared(found: Comparison) -> None:
    before, after = found.tokens
    echo(f"\nall tokens stayed: {found.whole:,} of {found.lines:,} lines")
    echo(f"same ids up to the map: {found.mapped:,} of {found.whole:,}")
    echo(f"same text as the original: {found.returned:,} of {found.lines:,}")
    echo(f"tokens: {before:,} → {after:,}")
    if found.wrong:
        echo(f"first wrong line: {found.wrong[:60]!r}")
