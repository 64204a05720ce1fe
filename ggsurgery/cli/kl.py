"""kl: distance between a model's predictions and its base's."""

from __future__ import annotations

from pathlib import Path

import click

from ..jobs.kl import KlBaseRequest, KlOfBaseRequest, KlRequest
from ..jobs.measured import document_of
from ..measure.registry import METRICS
from ..measure.results.score import Score
from ..present.numbers import error_in_words, human_bytes
from ._files import FILE
from ._output import echo, json_option, note, print_json, table
from ._requests import Maker, perform, request_options


@click.command()
@click.argument("files", metavar="[BASE] FILE", nargs=-1, required=True, type=FILE)
@request_options(KlRequest, KlOfBaseRequest, KlBaseRequest, skip=("base", "file"))
@json_option
def kl(files: tuple[Path, ...], make: Maker, as_json: bool) -> None:
    """Measure the KL divergence of FILE from BASE on a text.

    Both models run side by side, window by window, so no logits are stored. Or the base is
    saved once as its likeliest tokens with the mass of the rest (0.5 MB a window at 256);
    the figure from such a file is a lower bound.

    \b
    Example:
      ggsurgery kl base.gguf cut.gguf --text wiki.test.raw --windows 20
      ggsurgery kl base.gguf --text wiki.test.raw --save-base base.kl
      ggsurgery kl cut.gguf --base-file base.kl
    """
    save, stored = make.values["save_base"] is not None, make.values["base_file"] is not None
    if len(files) != (1 if save or stored else 2) or (save and stored):
        raise click.UsageError(
            "give BASE and FILE, or BASE with --save-base, or FILE with --base-file"
        )
    if save:
        out = perform(make(KlBaseRequest, "--save-base stops there", base=files[0]), "kl", "window")
        note(f"{out}: {human_bytes(out.stat().st_size)}")
        return
    request: KlOfBaseRequest | KlRequest
    if stored:
        why = "--base-file holds its own text and context"
        request = make(KlOfBaseRequest, why, file=files[0])
    else:
        request = make(KlRequest, "two files are compared", base=files[0], file=files[1])
    found = perform(request, "kl", "window")
    scores = found.scores
    if as_json:
        print_json(document_of("kl", request, found.results))
        return
    echo(table(map(_row, scores), ("", "value", "error", "")))
    lower = "; a lower bound (top-k base file)" if scores[0].provenance.get("lower_bound") else ""
    echo(f"\n{scores[0].n} positions, in nats{lower}")


def _row(score: Score) -> tuple[str, str, str, str]:
    error = error_in_words(score.stderr, score.interval, 6)
    return (METRICS[score.metric].label, f"{score.value:.6f}", error, score.metric)
