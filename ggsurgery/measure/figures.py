"""A figure with its error in words, alike in all tables."""

from __future__ import annotations

from .results.statistics import Interval


def error_in_words(
    stderr: float | None, interval: Interval | None, digits: int, scale: float = 1.0
) -> str:
    """`± 0.0433`; the 95 % interval where the standard error is 0, which no sample proves.

    Three right answers of three leave a standard error of 0, and an interval from 0.44 on.

    Example:
        >>> error_in_words(0.0, Interval(0.4385, 1.0), 2)
        '[0.44, 1.00]'
    """
    if stderr is None:
        return ""
    if stderr == 0 and interval is not None and interval.low < interval.high:
        return f"[{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"
    return f"± {scale * stderr:.{digits}f}"


def figure_in_words(
    value: float, stderr: float | None, interval: Interval | None = None, digits: int = 4
) -> str:
    """A value with its error.

    Example:
        >>> figure_in_words(0.25, 0.0433)
        '0.2500 ± 0.0433'
    """
    return f"{value:.{digits}f} {error_in_words(stderr, interval, digits)}".rstrip()
