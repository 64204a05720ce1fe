"""In which order tokens leave a vocabulary: the rarest first, each before its parts.

Leaf-frequency pruning (arXiv 2512.03989): of the tokens that are part of no other one the
rarest leaves, and its count goes to its parts, which the text then consists of.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .derivation import Parts


def closure(tokens: Iterable[int], parts: Parts) -> frozenset[int]:
    """Tokens with everything that they are made of.

    Example:
        >>> sorted(closure([3], [(), (), (), (1, 2)]))
        [1, 2, 3]
    """
    found: set[int] = set()
    waiting = list(tokens)
    while waiting:
        token = waiting.pop()
        if token not in found:
            found.add(token)
            waiting += parts[token]
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Removal:
    """The tokens of a vocabulary in the order of removal.

    Args:
        counts: how often each token occurs in the texts.
        order: the removable tokens, in order of removal. dropped: number of them at the start that
            are always removed.
    """

    counts: NDArray[np.int64]
    order: tuple[int, ...]
    dropped: int = 0

    @property
    def least(self) -> int:
        """The fewest tokens that can stay."""
        return len(self.counts) - len(self.order)

    def kept(self, n: int) -> tuple[int, ...]:
        """The `n` tokens that stay longest, ascending."""
        gone = set(self.order[: len(self.counts) - n])
        return tuple(i for i in range(len(self.counts)) if i not in gone)

    def coverage(self, n: int) -> float:
        """The share of the texts' tokens that stay whole among the last `n`; 1 without texts."""
        total = int(self.counts.sum())
        lost = int(self.counts[list(self.order[: len(self.counts) - n])].sum())
        return 1 - lost / total if total else 1.0

    def size_for(self, coverage: float) -> int:
        """The fewest tokens that leave this share of the texts' tokens whole."""
        lost = np.cumsum(self.counts[list(self.order)])
        allowed = (1 - coverage) * int(self.counts.sum())
        n = int(np.searchsorted(lost, allowed + 1e-9 * (allowed + 1), side="right"))
        return len(self.counts) - max(n, self.dropped)


def removal(
    counts: Sequence[int] | NDArray[np.int64],
    parts: Parts,
    needed: Collection[int],
    dropped: Collection[int] = (),
) -> Removal:
    """The order in which tokens leave.

    Args:
        counts: of each token in the texts.
        needed: tokens that stay, with their parts.
        dropped: tokens that leave first, with all that are made of them.
    """
    fixed = closure(needed, parts)
    frequency = [int(c) for c in counts]
    users = [0] * len(frequency)
    for each in parts:
        for part in each:
            users[part] += 1
    first = set(dropped) - fixed
    size = -1
    while first and size != len(first):
        size = len(first)
        first |= {t for t, p in enumerate(parts) if not first.isdisjoint(p)} - fixed

    def entry(token: int) -> tuple[bool, int, int]:
        return token not in first, frequency[token], -token

    free = (t for t in range(len(frequency)) if not users[t] and t not in fixed)
    heap = [entry(t) for t in free]
    heapq.heapify(heap)
    order = []
    while heap:
        token = -heapq.heappop(heap)[2]
        order.append(token)
        for part in parts[token]:
            frequency[part] += frequency[token]
            users[part] -= 1
            if not users[part] and part not in fixed:
                heapq.heappush(heap, entry(part))
    return Removal(np.asarray(counts, np.int64), tuple(order), sum(t in first for t in order))
