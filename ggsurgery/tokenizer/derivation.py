"""How a tokenizer builds each token: the parts of its last merge.

A token inside a text comes about by the same merges as its text alone: while its span is
merged, no merge crosses the span's borders, and those inside keep their order. So a set of
tokens that contains the parts of all its members tokenizes every text whose old tokens it
contains as before.

Sources: llama.cpp's sessions for BPE, SentencePiece's BPE and unigram (src/llama-vocab.cpp,
0c1e570); Sennrich et al. 2016 for BPE.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from ..chat.vocabulary import Vocabulary
from ..errors import FormatError
from ..ggufio.constants import Keys

#: The parts of each token by id; empty for tokens that no merge makes.
Parts = list[tuple[int, ...]]
Pair = tuple[str, str]
#: The order of a merge, lowest first; None where the two texts do not merge.
Rank = Callable[[str, str], float | None]


def parts_of(vocabulary: Vocabulary) -> Parts:
    """The parts of every token of a vocabulary.

    Raises:
        FormatError: a list that the tokenizer needs is missing.
    """
    if vocabulary.model == "t5":
        return [()] * len(vocabulary.tokens)
    if vocabulary.model == "llama":
        return _by_scores(vocabulary)
    merges = vocabulary.header.get(Keys.Tokenizer.MERGES)
    return by_merges(vocabulary.ids, len(vocabulary.tokens), merges if merges else [])


def by_merges(ids: Mapping[str, int], count: int, merges: Sequence[str]) -> Parts:
    """The parts of BPE tokens.

    Args:
        ids: text → id.
        merges: in their order, two parts with a space between.
    """
    ranks: dict[Pair, int] = {}
    makers: defaultdict[str, list[Pair]] = defaultdict(list)
    for number, merge in enumerate(merges):
        place = merge.find(" ", 1)
        if place > 0:
            pair = merge[:place], merge[place + 1 :]
            if pair not in ranks:
                ranks[pair] = number
                makers["".join(pair)].append(pair)

    def rank(left: str, right: str) -> float | None:
        return ranks.get((left, right))

    def last(text: str) -> Pair | None:
        pairs = makers.get(text, ())
        return pairs[0] if len(pairs) == 1 else last_merge(text, rank) if pairs else None

    return _all_parts(ids, count, last)


def _by_scores(vocabulary: Vocabulary) -> Parts:
    scores = vocabulary.header.get(Keys.Tokenizer.SCORES)
    if not isinstance(scores, list) or len(scores) != len(vocabulary.tokens):
        raise FormatError(
            "a SentencePiece vocabulary needs a score for every piece",
            file=vocabulary.header.path,
            tensor=Keys.Tokenizer.SCORES,
            expected=len(vocabulary.tokens),
            found="none" if not isinstance(scores, list) else len(scores),
        )
    ids = vocabulary.ids

    def rank(left: str, right: str) -> float | None:
        token = ids.get(left + right)
        return None if token is None else -scores[token]

    return _all_parts(ids, len(vocabulary.tokens), lambda text: last_merge(text, rank))


def _all_parts(ids: Mapping[str, int], count: int, last: Callable[[str], Pair | None]) -> Parts:
    def tokens_in(text: str) -> tuple[int, ...]:
        """The token of a part, or those in it: a step of a merge need not be a token."""
        if text in ids:
            return (ids[text],)
        pair = last(text)
        return () if pair is None else (*tokens_in(pair[0]), *tokens_in(pair[1]))

    found: Parts = [()] * count
    for text, token in ids.items():
        pair = last(text)
        if pair is not None:
            found[token] = (*tokens_in(pair[0]), *tokens_in(pair[1]))
    return found


def last_merge(text: str, rank: Rank) -> Pair | None:
    """The two halves that the last merge of a text joins; None where it ends in more pieces.

    Example:
        >>> ranks = {("a", "b"): 0, ("ab", "c"): 1}
        >>> last_merge("abc", lambda left, right: ranks.get((left, right)))
        ('ab', 'c')
    """
    symbols = list(text)
    costs = [rank(a, b) for a, b in pairwise(symbols)]
    while len(symbols) > 2:
        best = min((c for c in costs if c is not None), default=None)
        if best is None:
            return None
        at = costs.index(best)  # of equal ones the first
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        del costs[at]
        if at > 0:
            costs[at - 1] = rank(symbols[at - 1], symbols[at])
        if at < len(costs):
            costs[at] = rank(symbols[at], symbols[at + 1])
    if len(symbols) < 2 or costs[0] is None:
        return None
    return symbols[0], symbols[1]
