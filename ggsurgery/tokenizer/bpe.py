"""Checks of a byte-level BPE vocabulary (`gpt2`): merges, bytes, tokens."""

from __future__ import annotations

from collections.abc import Iterator

from ..chat.vocabulary import Vocabulary
from ..ggufio.constants import Keys
from .findings import Finding


def byte_alphabet() -> dict[int, str]:
    """The character that represents each byte in a GPT-2 vocabulary.

    Printable Latin-1 bytes represent themselves; the others map to U+0100 and up, in order.

    Example:
        >>> byte_alphabet()[0x20]
        'Ġ'
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (b for b in range(256) if b not in printable)
    shifted = {b: chr(0x100 + n) for n, b in enumerate(others)}
    return {b: chr(b) if b in printable else shifted[b] for b in range(256)}


def check_bpe(vocabulary: Vocabulary) -> Iterator[Finding]:
    """Errors in the lists of a BPE vocabulary."""
    merges = vocabulary.header.get(Keys.Tokenizer.MERGES)
    if not isinstance(merges, list):
        yield Finding("error", "merges", "the header has none: no text can be tokenized")
        return
    known = vocabulary.ids
    malformed = [m for m in merges if _halves(m) is None]
    if malformed:
        yield Finding("error", "merges", f"{len(malformed)} are not two pieces: {malformed[0]!r} …")
    lost = []
    for merge in merges:
        halves = _halves(merge)
        if halves and not all(piece in known for piece in (*halves, "".join(halves))):
            lost.append(merge)
    if lost:
        yield Finding(
            "error",
            "merges",
            f"{len(lost)} of {len(merges)} contain a piece that is not a token: {lost[0]!r} …",
        )
    if len(set(merges)) < len(merges):
        yield Finding("warning", "merges", f"{len(merges) - len(set(merges))} duplicate(s)")
    never = {0xC0, 0xC1, *range(0xF5, 0x100)}  # bytes that no UTF-8 text has
    bytes_missing = [b for b, c in byte_alphabet().items() if c not in known and b not in never]
    if bytes_missing:
        named = ", ".join(f"0x{b:02x}" for b in bytes_missing[:5])
        yield Finding(
            "warning",
            "bytes",
            f"{len(bytes_missing)} bytes have no token ({named} …): texts "
            "with them lose characters",
        )
    if not vocabulary.pre:
        yield Finding(
            "warning",
            "pre-tokenizer",
            f"{Keys.Tokenizer.PRE} is missing: llama.cpp guesses, "
            "and splits words in another way than the model was trained with",
        )


def _halves(merge: object) -> tuple[str, str] | None:
    if not isinstance(merge, str):
        return None
    first, space, second = merge.partition(" ")
    return (first, second) if first and space and second and " " not in second else None
