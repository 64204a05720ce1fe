"""Figures as a model card writes them."""

from __future__ import annotations

from ..measure.figures import error_in_words, figure_in_words
from ..measure.results.score import Score


def mib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB"


def figure(score: Score | None) -> str:
    if score is None:
        return "–"
    return figure_in_words(score.value, score.stderr, score.interval)


def percent(score: Score) -> str:
    error = error_in_words(score.stderr, score.interval, 2, 100.0)
    return f"{100 * score.value:.2f} {error}".rstrip() + " %"
