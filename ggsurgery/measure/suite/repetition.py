"""How much a text repeats itself: n-grams of words, and how well it compresses."""

from __future__ import annotations

import zlib

#: An open answer with fewer words is too short to measure repetition and counts as failed.
MIN_WORDS = 10


def distinct_ngrams(text: str, n: int = 4) -> float:
    """The share of distinct n-grams among all n-grams of words; 1 for no repetition.

    Texts shorter than n words have none that could repeat: 1.

    Example:
        >>> distinct_ngrams("a b a b a b", 2)
        0.4
    """
    words = text.casefold().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def compression_ratio(text: str) -> float:
    """Bytes of the text over its bytes in zlib (level 9); ordinary short prose is 1.5 to 2.4."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw, 9)) if raw else 1.0


def linear(value: float, *, bad: float, good: float) -> float:
    """0 at `bad`, 1 at `good`, linear between and clipped beyond.

    Example:
        >>> linear(2.0, bad=3.0, good=1.0)
        0.5
    """
    if good == bad:
        return float(value >= good)
    return min(1.0, max(0.0, (value - bad) / (good - bad)))


def freedom_from_loops(
    text: str, *, ngram: int, distinct_bad: float, ratio_good: float, ratio_bad: float
) -> float:
    """1 for a text without repetition, 0 for a loop or for hardly any text."""
    if len(text.split()) < MIN_WORDS:
        return 0.0
    return min(
        linear(distinct_ngrams(text, ngram), bad=distinct_bad, good=1.0),
        linear(compression_ratio(text), bad=ratio_bad, good=ratio_good),
    )
