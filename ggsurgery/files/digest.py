"""sha256 sums of texts and of files that people name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .text import read_bytes


def sha256_of_text(text: str) -> str:
    """sha256 of a text, hex; halves of surrogate pairs count as they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """sha256 of a text, a recipe or a file of questions, hex; models have `Source.checksum`.

    Raises:
        FormatError: it cannot be read, or is longer than `files.text.MAX_TEXT`.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()
