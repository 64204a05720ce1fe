"""Scripts of tokens, by the Unicode names of their letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from functools import cache

from ..chat.vocabulary import Vocabulary
from ..errors import PlanError, did_you_mean
from .bpe import byte_alphabet
from .spm import SPACE

#: First word of a letter's Unicode name → script, where the two differ.
_NAMES = {"CJK": "han", "FULLWIDTH": "latin", "IDEOGRAPHIC": "han", "KANGXI": "han"}
#: First words that name no script.
_NOT_SCRIPTS = {"MODIFIER", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "FEMININE", "MASCULINE"}
_NOT_SCRIPTS |= {"MICRO", "OHM", "KELVIN", "ANGSTROM", "HALFWIDTH", "SUPERSCRIPT", "SUBSCRIPT"}


@cache
def script_of(character: str) -> str | None:
    """The script of a letter: `latin`, `cyrillic`, `han` …; None for anything else.

    Example:
        >>> script_of("ж"), script_of("中"), script_of("1")
        ('cyrillic', 'han', None)
    """
    if unicodedata.category(character)[0] != "L":
        return None
    word = unicodedata.name(character, "").partition(" ")[0]
    if not word or word in _NOT_SCRIPTS:
        return None
    return _NAMES.get(word, word.lower())


def scripts_of(text: str) -> frozenset[str]:
    """The scripts of a text's letters."""
    return frozenset(s for s in map(script_of, text) if s is not None)


def token_text(token: str, alphabet: dict[str, int] | None) -> str:
    """The text of a token; empty for a part of a character.

    Args:
        alphabet: character → byte of a byte-level vocabulary; None for others.
    """
    if alphabet is None:
        return token.replace(SPACE, " ")
    if not all(c in alphabet for c in token):
        return token  # a special token is written as it is
    return bytes(alphabet[c] for c in token).decode("utf-8", "ignore")


def alphabet_of(vocabulary: Vocabulary) -> dict[str, int] | None:
    """Character → byte of a byte-level vocabulary; None where tokens are plain text."""
    if vocabulary.model != "gpt2" or "<0x00>" in vocabulary.ids:
        return None
    return {c: b for b, c in byte_alphabet().items()}


def token_scripts(vocabulary: Vocabulary) -> list[frozenset[str]]:
    """The scripts of every token."""
    alphabet = alphabet_of(vocabulary)
    return [scripts_of(token_text(t, alphabet)) for t in vocabulary.tokens]


def tokens_in(scripts: Collection[str], found: list[frozenset[str]]) -> frozenset[int]:
    """The tokens with a letter of one of these scripts.

    Args:
        found: of `token_scripts`.

    Raises:
        PlanError: no token is in such a script.
    """
    known = frozenset().union(*found)
    for name in scripts:
        if name not in known:
            raise PlanError(
                f"the vocabulary has no token in the script {name!r}",
                expected=", ".join(sorted(known)[:30]),
                hint=did_you_mean(name, known),
            )
    wanted = frozenset(scripts)
    return frozenset(i for i, each in enumerate(found) if each & wanted)
