"""Trimmed vocabularies as llama.cpp reads them, without a model behind them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path

from ggsurgery.chat.vocabulary import Vocabulary
from ggsurgery.ggufio.header import read_header
from ggsurgery.runtime.vocab_only import VocabularyFile
from ggsurgery.surgery.trim_vocab import vocabulary_bytes
from ggsurgery.surgery.vocab_map import VocabMap
from ggsurgery.tokenizer.derivation import Parts, parts_of
from ggsurgery.tokenizer.needed import needed
from ggsurgery.tokenizer.removal import closure


@cache
def vocabulary(path: Path) -> Vocabulary:
    return Vocabulary.of(read_header(path))


@cache
def parts(path: Path) -> Parts:
    return parts_of(vocabulary(path))


@cache
def safe(path: Path) -> frozenset[int]:
    """The tokens that must stay."""
    with VocabularyFile(path) as llama:
        return needed(
            vocabulary(path),
            lambda text: llama.tokenize(text, add_special=False, parse_special=True),
        )


def keeping(path: Path, tokens: Collection[int]) -> VocabMap:
    """The map that keeps these tokens, what they are made of, and what must stay."""
    kept = closure({*safe(path), *map(int, tokens)}, parts(path))
    return VocabMap(len(vocabulary(path).tokens), tuple(sorted(kept)))


def write(source: Path, kept: VocabMap, out: Path) -> Path:
    out.write_bytes(vocabulary_bytes(read_header(source), kept))
    return out


def compare(source: Path, trimmed: Path, kept: VocabMap, lines: Collection[str]) -> int:
    """Assert that ids are mapped where all stay, and that the text never changes.

    Returns:
        How many lines had all of their tokens kept.
    """
    whole = 0
    with VocabularyFile(source) as old, VocabularyFile(trimmed) as new:
        assert new.n_vocab == kept.after
        for line in lines:
            before = old.tokenize(line, add_special=False)
            after = new.tokenize(line, add_special=False)
            if all(i in kept.new_ids for i in before):
                whole += 1
                assert after == [kept.new_ids[i] for i in before], line
            assert b"".join(map(new.piece, after)) == b"".join(map(old.piece, before)), line
    return whole
