"""Select the questions for a limit: the same share of every subject, drawn by a seed.

The first questions of a file are not a representative sample: MMLU is sorted by subject, HellaSwag
by where its texts come from.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from .questions import Question

T = TypeVar("T")

#: The default seed of a draw.
SEED = 0


def draw(
    items: Sequence[T],
    limit: int | None,
    *,
    seed: int = SEED,
    name: Callable[[T], str],
    subject: Callable[[T], Hashable] = lambda _: None,
) -> list[T]:
    """At most `limit` of the items, in their order.

    Every subject gets one while the limit lasts, further ones by the subjects' sizes (Webster's
    divisors). Which items of a subject, and which subjects where there are more than the limit,
    a hash of the seed and the name decides: alike on every machine, and a larger limit keeps
    what a smaller one drew.

    Example:
        >>> draw("aaaabb", 3, name=str, subject=str)
        ['a', 'a', 'b']
    """
    if limit is None or limit >= len(items):
        return list(items)
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(subject(item), []).append(index)
    order = sorted(groups, key=lambda s: _rank(seed, f"subject {s}"))
    for members in groups.values():
        members.sort(key=lambda i: (_rank(seed, name(items[i])), i))
    counts = dict.fromkeys(order[:limit], 1)
    # (−size / divisor, place in the order, subject): the largest quotient comes first
    queue = [(-len(groups[s]) / 3, place, s) for place, s in enumerate(order)]
    heapq.heapify(queue)
    while sum(counts.values()) < limit:
        _, place, chosen = heapq.heappop(queue)
        if counts[chosen] < len(groups[chosen]):
            counts[chosen] += 1
            quotient = -len(groups[chosen]) / (2 * counts[chosen] + 1)
            heapq.heappush(queue, (quotient, place, chosen))
    taken = sorted(i for s, n in counts.items() for i in groups[s][:n])
    return [items[i] for i in taken]


def draw_questions(
    questions: Sequence[Question], limit: int | None, seed: int = SEED
) -> list[Question]:
    """At most `limit` of the questions."""
    return draw(questions, limit, seed=seed, name=lambda q: q.id, subject=lambda q: q.subject)


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()
