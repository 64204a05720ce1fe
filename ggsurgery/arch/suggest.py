"""The nearest layer lists that keep every layer's kind, for error messages.

A stack is in phase when the layer at each place has the kind that llama.cpp gives that
place. The search removes further layers from a requested list, or restores some that were removed,
and counts these steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: Longest stack that is searched; for longer ones, messages contain no proposals.
LIMIT = 200
#: How many layers longer or shorter than requested a proposal may be.
REACH = 12
#: Cost of removing or restoring one layer; distances between layers cost less.
STEP = 1000


def nearest(
    requested: Sequence[int], kinds: Sequence[Any], place: Callable[[int], Sequence[Any]]
) -> list[list[int]]:
    """Lists in phase: the best that only removes layers, and the best that may also restore some.

    Args:
        requested: source layers in the wanted order, which is out of phase.
        kinds: the kind of each source layer.
        place: maps a layer count to the kinds that llama.cpp gives the positions.

    Returns:
        at most two lists, each with the fewest steps of its sort; a list that is not in ascending
        order can only lose layers. The whole stack is never proposed. Empty if nothing within
        `REACH` layers is in phase.
    """
    if not 0 < len(kinds) <= LIMIT:
        return []
    whole = list(range(len(kinds)))
    found = [_best(requested, set(requested), requested, kinds, place)]
    if list(requested) == sorted(set(requested)):
        found.append(_best(whole, set(requested), requested, kinds, place))
    lists: list[list[int]] = []
    for layers in found:
        if layers and layers != whole and layers not in lists:
            lists.append(layers)
    return lists


def _best(
    pool: Sequence[int],
    chosen: set[int],
    requested: Sequence[int],
    kinds: Sequence[Any],
    place: Callable[[int], Sequence[Any]],
) -> list[int]:
    """The subsequence of `pool` in phase that takes the fewest steps; [] if none is near."""
    found = []
    last = min(len(pool), len(requested) + REACH)
    for length in range(max(1, len(requested) - REACH), last + 1):
        if length == len(kinds) and len(pool) == length:
            continue  # the original stack
        steps = _align(pool, chosen, kinds, place(length))
        if steps is not None:
            found.append(steps)
    return min(found, key=lambda item: (item[0], -len(item[1])))[1] if found else []


def _align(
    pool: Sequence[int], chosen: set[int], kinds: Sequence[Any], places: Sequence[Any]
) -> tuple[int, list[int]] | None:
    """The cheapest subsequence of `pool` whose kinds are `places`, and its cost.

    Removing a requested layer or restoring another costs one `STEP` each; among equal numbers of
    steps, those near the layers already removed are preferred.
    """
    gone = set(range(len(kinds))) - chosen
    n, m = len(pool), len(places)
    far = STEP * (n + 2)
    # cost[j]: lowest cost of filling the first j places from the part of the pool seen so far
    cost = [0] + [far] * m
    taken = [[False] * (m + 1) for _ in range(n)]
    for i, layer in enumerate(pool):
        out = STEP + min((abs(layer - g) for g in gone), default=0) if layer in chosen else 0
        back = 0 if layer in chosen else STEP
        for j in range(min(i + 1, m), -1, -1):
            skip = cost[j] + out
            take = far
            if j and kinds[layer] == places[j - 1]:
                take = cost[j - 1] + back
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
