"""perplexity: how well a model predicts a text, to the digits of llama-perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..jobs.measured import envelope_of
from ..jobs.perplexity import PerplexityRequest, PerplexityResult
from ._output import echo, json_option, print_json, table
from ._requests import perform, request_options


@click.command()
@request_options(PerplexityRequest, many="file")
@json_option
def perplexity(requests: list[PerplexityRequest], as_json: bool) -> None:
    """Measure the perplexity of one or more files on a text.

    The definition is llama-perplexity's: windows of --ctx tokens, the second half of each
    scored. Figures are comparable only for the same text, --ctx and --windows.

    \b
    Example:
      ggsurgery perplexity model.gguf --text wiki.test.raw
      ggsurgery perplexity in.gguf out.gguf --text wiki.test.raw --ctx 1024 --windows 20
    """
    if len(requests) > 1 and requests[0].out is not None:
        raise click.UsageError("--out takes the results of one FILE")
    found = [perform(r, Path(r.file).name, "window") for r in requests]
    if as_json:
        results = [
            result.to_json() | envelope_of("perplexity", request)
            for request, result in zip(requests, found, strict=True)
        ]
        print_json(results[0] if len(results) == 1 else results)
        return
    echo(_table(found))


def _table(found: list[PerplexityResult]) -> str:
    first = found[0].value
    header = ("file", "perplexity", "error", "ratio", "windows", "tokens scored", "BOS")
    rows: list[tuple[Any, ...]] = [
        (
            str(f.file),
            f"{f.value:.4f}",
            f"± {f.stderr:.4f}",
            f"{f.value / first:.4f}",
            len(f.chunks),
            f.n,
            "yes" if f.add_bos else "no",
        )
        for f in (result.perplexity for result in found)
    ]
    shown = [c for c in range(len(header)) if len(found) > 1 or header[c] != "ratio"]
    return table(([row[c] for c in shown] for row in rows), [header[c] for c in shown])
