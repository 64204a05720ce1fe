"""Numbers as people read them: sizes, counts, and a figure with its error, alike in all tables."""

from __future__ import annotations

import math
from typing import Protocol


class Ends(Protocol):
    """The ends of a 95 % interval."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def human_bytes(n: float | None) -> str:
    """Bytes; from GiB on with two decimals, and a dash where the size is not known.

    Example:
        >>> human_bytes(102_660_000), human_bytes(5 << 28), human_bytes(None)
        ('97.9 MiB', '1.25 GiB', '–')
    """
    if n is None:
        return "–"
    for unit, digits in (("B", 0), ("KiB", 1), ("MiB", 1), ("GiB", 2)):
        if abs(n) < 1024:
            return f"{n:.{digits}f} {unit}"
        n /= 1024
    return f"{n:.2f} TiB"


def human_count(n: float) -> str:
    """Parameters.

    Example:
        >>> human_count(134_515_008), human_count(1.7e9)
        ('134.5M', '1.70B')
    """
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.2f}{unit}" if unit in "TB" else f"{n / size:.1f}{unit}"
    return str(int(n))


def error_in_words(
    stderr: float | None, interval: Ends | None, digits: int, scale: float = 1.0
) -> str:
    """`± 0.0433`; the 95 % interval where the standard error is 0, which no sample proves.

    Three right answers of three leave a standard error of 0, and an interval from 0.44 on.

    Example:
        >>> error_in_words(0.0433, None, 2)
        '± 0.04'
    """
    if stderr is None:
        return ""
    if stderr == 0 and interval is not None and interval.low < interval.high:
        return f"[{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"
    return f"± {scale * stderr:.{digits}f}"


def figure_in_words(
    value: float, stderr: float | None, interval: Ends | None = None, digits: int | None = 4
) -> str:
    """A value with its error.

    Args:
        digits: decimals; None takes four below 10, fewer above.

    Example:
        >>> figure_in_words(0.25, 0.0433), figure_in_words(71.4812, 2.3, digits=None)
        ('0.2500 ± 0.0433', '71.48 ± 2.30')
    """
    if digits is None:
        if not math.isfinite(value):
            return str(value)
        digits = 4 if abs(value) < 10 else 2 if abs(value) < 10_000 else 0
    return f"{value:.{digits}f} {error_in_words(stderr, interval, digits)}".rstrip()


def percent_in_words(value: float, stderr: float | None, interval: Ends | None = None) -> str:
    """A share with its error, in percent.

    Example:
        >>> percent_in_words(0.25, 0.0433)
        '25.00 ± 4.33 %'
    """
    return f"{100 * value:.2f} {error_in_words(stderr, interval, 2, 100.0)}".rstrip() + " %"
