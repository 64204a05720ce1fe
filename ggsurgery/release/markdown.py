"""Figures as a model card writes them."""

from __future__ import annotations

from ..evaluate.score import Score


def mib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB"


def figure(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{score.value:.4f}" + (f" ± {score.stderr:.4f}" if score.stderr is not None else "")


def percent(score: Score) -> str:
    error = f" ± {100 * score.stderr:.2f}" if score.stderr is not None else ""
    return f"{100 * score.value:.2f}{error} %"
