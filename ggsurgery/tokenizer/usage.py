"""How texts use a vocabulary, and how a trimmed one reads them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..chat.vocabulary import Vocabulary
from ..errors import PlanError
from ..files.progress import Progress
from ..ggufio.constants import TokenType
from ..ggufio.header import read_header
from ..runtime.vocab_only import VocabularyFile
from ..surgery.trim_vocab import check_trimmable, vocabulary_bytes
from ..surgery.vocab_map import VocabMap
from .derivation import parts_of
from .needed import needed
from .removal import Removal, removal
from .scripts import token_scripts, tokens_in

#: The share of a text's tokens in a dropped script above which dropping it is refused.
MOST_DROPPED = 0.01


@dataclass(frozen=True, slots=True)
class Group:
    """Tokens of one script or kind: their number, how many of them the texts use, and how often."""

    tokens: int
    used: int
    occurrences: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a vocabulary that texts use.

    Args:
        n_bytes: of the texts.
        order: in which tokens leave, with their counts.
        scripts: by script, those with the most tokens first; a token of two is in both.
        kinds: by kind, `byte`, `normal`, `special`.
        of_dropped: occurrences of tokens in dropped scripts.
    """

    n_bytes: int
    order: Removal
    scripts: dict[str, Group]
    kinds: dict[str, Group]
    of_dropped: int = 0

    @property
    def n_tokens(self) -> int:
        return int(self.order.counts.sum())


def usage(
    path: str | Path,
    texts: Sequence[str],
    always: str = "",
    drop_scripts: Collection[str] = (),
    parse_special: bool = False,
    progress: Progress | None = None,
) -> Usage:
    """Count the tokens of some texts, and put all tokens into the order in which they leave.

    Args:
        always: a text whose tokens stay.
        drop_scripts: tokens with letters of these scripts leave first.

    Raises:
        ArchitectureError: the vocabulary cannot be trimmed.
        PlanError: an unknown script, or one that the texts are written in.
    """
    header = read_header(path)
    check_trimmable(header)
    vocabulary = Vocabulary.of(header)
    count = len(vocabulary.tokens)
    counts = np.zeros(count, np.int64)
    with VocabularyFile(path) as llama:
        for n, text in enumerate(texts, 1):
            ids = llama.tokenize_array(text, add_special=False, parse_special=parse_special)
            counts += np.bincount(ids, minlength=count)
            if progress is not None:
                progress(n, len(texts))

        def tokens_of(text: str) -> list[int]:
            return llama.tokenize(text, add_special=False, parse_special=True)

        stay = needed(vocabulary, tokens_of) | frozenset(tokens_of(always))
    scripts = token_scripts(vocabulary)
    dropped = tokens_in(drop_scripts, scripts)
    of_dropped = int(counts[list(dropped)].sum())
    if of_dropped > MOST_DROPPED * counts.sum():
        raise PlanError(
            f"the texts are written in a script to drop ({', '.join(drop_scripts)})",
            file=path,
            expected=f"at most {MOST_DROPPED:.0%} of their tokens",
            found=f"{of_dropped / counts.sum():.1%}",
        )
    return Usage(
        sum(len(t.encode()) for t in texts),
        removal(counts, parts_of(vocabulary), stay, dropped),
        _groups([sorted(s) for s in scripts], counts),
        _groups([[_kind(k)] for k in vocabulary.types], counts),
        of_dropped,
    )


def tokens_after(path: str | Path, kept: VocabMap, texts: Sequence[str]) -> int:
    """How many tokens the texts have in the trimmed vocabulary."""
    data = vocabulary_bytes(read_header(path), kept)
    with tempfile.TemporaryDirectory(prefix="ggsurgery-") as folder:
        file = Path(folder) / "vocabulary.gguf"
        file.write_bytes(data)
        with VocabularyFile(file) as llama:
            return sum(len(llama.tokenize_array(t, add_special=False)) for t in texts)


def _kind(kind: int) -> str:
    if kind == TokenType.BYTE:
        return "byte"
    return "normal" if kind == TokenType.NORMAL else "special"


def _groups(names: Sequence[Sequence[str]], counts: np.ndarray) -> dict[str, Group]:
    tokens: Counter[str] = Counter()
    used: Counter[str] = Counter()
    occurrences: Counter[str] = Counter()
    for each, n in zip(names, counts.tolist(), strict=True):
        for name in each:
            tokens[name] += 1
            used[name] += n > 0
            occurrences[name] += n
    return {k: Group(n, used[k], occurrences[k]) for k, n in tokens.most_common()}
