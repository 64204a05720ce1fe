"""How much of the base's figure is kept, and the word for it."""

from __future__ import annotations

from .registry import metric_of
from .results.score import Score

#: At least this share is kept → what published model cards call it (LaCo's).
STATUS = ((0.80, "Good"), (0.70, "Acceptable"), (0.50, "Degraded"))
LOST = "Not recommended"
NEAR_RANDOM = "Near random"

#: Definitions of the status words, printed below a table.
LEGEND = (
    "Good: at least 80 % kept; Acceptable: 70 %; Degraded: 50 %; below that Not recommended. "
    "Near random: guessing is within the 95 % interval, or above it."
)


def status_of(share: float) -> str:
    """The word for a share that is kept.

    Example:
        >>> status_of(0.743)
        'Acceptable'
    """
    return next((word for least, word in STATUS if share >= least), LOST)


def retention(base: Score, other: Score) -> tuple[float | None, str | None]:
    """The share of the base's figure that is kept, and its status word.

    There is neither where less is better, where the figure itself compares two models, where
    the direction is unknown, or where the base is not above 0. A figure that guessing explains
    is `Near random` whatever its share: 96 % of a base that guesses is meaningless.

    Example:
        >>> retention(Score("acc", 0.8, None, 9), Score("acc", 0.6, None, 9))
        (0.75, 'Acceptable')
    """
    row = metric_of(base.metric)
    kept = base.direction == "higher" and not (row is not None and row.relative)
    if not kept or other.direction != base.direction or not base.value > 0:
        return None, None
    share = other.value / base.value
    return share, NEAR_RANDOM if is_near_random(other) else status_of(share)


def is_near_random(score: Score) -> bool:
    """Whether guessing explains the score; False where its chance level is not known."""
    chance = score.provenance.get("chance")
    if not isinstance(chance, int | float) or score.interval is None:
        return False
    return score.interval.low <= chance
