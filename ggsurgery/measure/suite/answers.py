"""Check whether a model's output contains an accepted answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_MARKUP = re.compile(r"[*_`#~]+|\\[()\[\]]|\\(?:text|boxed|mathrm)\b|[{}]")
_HYPHEN = re.compile(r"(?<=[^\W\d])[-‐‑–](?=[^\W\d])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")


def normal(text: str) -> str:
    """A text without case, markup, accents, thousands separators and hyphens within words.

    Example:
        >>> normal("**Fifty-six**, or 1,000 H₂O")
        'fifty six, or 1000 h2o'
    """
    decomposed = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()
    text = _MARKUP.sub("", text)
    text = _THOUSANDS.sub("", _HYPHEN.sub(" ", text))
    return " ".join(text.split())


def accepted(output: str, answers: Iterable[str]) -> bool:
    """Whether the text contains one of the answers as whole words.

    A number must match as a whole: 4 is not in 4.5, 14 or −4.

    Example:
        >>> accepted("The capital is Paris.", ["Paris"])
        True
        >>> accepted("About 4.5", ["4", "four"])
        False
    """
    text = normal(output)
    return any(_pattern(answer).search(text) for answer in answers)


def _pattern(answer: str) -> re.Pattern[str]:
    plain = normal(answer)
    before, after = r"(?<!\w)", r"(?!\w)"
    if plain[:1].isdigit():
        before = r"(?<![\w.])(?<![-−])(?<!\d,)"
    if plain[-1:].isdigit():
        after = r"(?!\w)(?![.,]\d)"
    return re.compile(before + re.escape(plain) + after)
