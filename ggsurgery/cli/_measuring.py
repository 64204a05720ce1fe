"""Format the figures of candidates."""

from __future__ import annotations

from ..measure.results.comparison import Difference
from ..measure.results.score import Score
from ..present.numbers import figure_in_words


def in_words(figure: Score | Difference | None) -> str | None:
    """`12.3456 ± 0.1234`; without an error, only the figure."""
    if figure is None:
        return None
    return figure_in_words(figure.value, figure.stderr, figure.interval)
