"""The nearest layer lists that keep every layer's kind, for error messages.

A stack is in phase when the layer at each place has the kind that llama.cpp gives that
place. From a requested list the search leaves out further layers, or puts back some that
were left out, and counts how many of these steps it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: Longest stack that the search looks at; above it, a message does without proposals.
LIMIT = 200


def nearest(
    requested: Sequence[int], kinds: Sequence[Any], place: Callable[[int], Sequence[Any]]
) -> list[list[int]]:
    """Lists in phase, fewest steps from `requested` first: one a number of layers.

    Args:
        requested: source layers in the wanted order, which is out of phase.
        kinds: the kind of each source layer.
        place: for a number of layers, the kinds that llama.cpp gives their places.

    Returns:
        at most two lists: the best one, and the best one of the other direction (longer
        instead of shorter than requested). Empty if nothing within reach is in phase.
    """
    if not 0 < len(kinds) <= LIMIT:
        return []
    ascending = list(requested) == sorted(set(requested))
    pool = list(range(len(kinds))) if ascending else list(requested)
    chosen = set(requested)
    found: list[tuple[int, list[int]]] = []
    for length in range(max(1, len(requested) - 12), min(len(pool), len(requested) + 12) + 1):
        steps = _align(pool, chosen, ascending, kinds, place(length))
        if steps is not None:
            found.append(steps)
    found.sort(key=lambda item: (item[0], abs(len(item[1]) - len(requested)), -len(item[1])))
    if not found:
        return []
    best = found[0][1]
    shorter = len(best) <= len(requested)
    other = next((s for _, s in found if (len(s) <= len(requested)) != shorter), None)
    return [best] if other is None else [best, other]


def _align(
    pool: Sequence[int],
    chosen: set[int],
    ascending: bool,
    kinds: Sequence[Any],
    places: Sequence[Any],
) -> tuple[int, list[int]] | None:
    """The cheapest subsequence of `pool` whose kinds are `places`, and its cost.

    Leaving out a requested layer or putting back one that was not costs one step each.
    """
    far = len(pool) + 1
    n, m = len(pool), len(places)
    # cost[j]: cheapest way to fill the first j places from the pool looked at so far
    cost = [0] + [far] * m
    taken = [[False] * (m + 1) for _ in range(n)]
    for i, layer in enumerate(pool):
        wanted = not ascending or layer in chosen
        for j in range(min(i + 1, m), -1, -1):
            skip = cost[j] + (1 if wanted else 0)
            take = far
            if j and kinds[layer] == places[j - 1]:
                take = cost[j - 1] + (0 if wanted else 1)
            taken[i][j] = take <= skip and take < far
            cost[j] = min(take, skip, far)
    if cost[m] >= far:
        return None
    layers, j = [], m
    for i in range(n - 1, -1, -1):
        if j and taken[i][j]:
            layers.append(pool[i])
            j -= 1
    return cost[m], layers[::-1]
