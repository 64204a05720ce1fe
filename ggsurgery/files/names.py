"""Names of files that are made from names of models, which may be of any length."""

from __future__ import annotations

import hashlib

#: Bytes of a made-up file name, so that suffixes such as `-IQ3_XXS-00001-of-00002.gguf` and
#: the mark of a temporary file find room in the 255 that file systems allow.
MAX_STEM_BYTES = 180


def fitting(stem: str) -> str:
    """The stem, or where it is too long for a file's name its beginning and a checksum.

    Example:
        >>> len(fitting("漢" * 300).encode())
        177
    """
    raw = stem.encode("utf-8", "surrogateescape")
    if len(raw) <= MAX_STEM_BYTES:
        return stem
    digest = hashlib.sha256(raw).hexdigest()[:8]
    begin = raw[: MAX_STEM_BYTES - 9].decode("utf-8", "ignore")
    return f"{begin}-{digest}"
