"""Group experts for a merge: each kept expert absorbs those most similar to it.

REAM (arXiv 2604.04356): the experts that stay are the most salient ones; in the order of their
saliency each takes its nearest neighbours, up to `most`, so that few experts change and most
stay as they are. The weights in a group are shares of its saliency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
#: Experts of one layer as (expert, weight) pairs, the one that stays first.
Groups = tuple[tuple[tuple[int, float], ...], ...]

#: Experts of a group, with the one that stays.
MOST = 16
#: Digits of the written weights; a member whose weight rounds to 0 is left out.
DIGITS = 6


def group(
    saliency: F64, unlikeness: F64, kept: Sequence[int], alone: Sequence[int] = (), most: int = MOST
) -> Groups:
    """The groups of one layer, in the order of `kept`.

    Args:
        saliency: [n_experts]; an expert without any is left out.
        unlikeness: [n_experts, n_experts].
        alone: experts of `kept` that absorb no others (guarded ones).
        most: members of a group; more if the others would not all fit.

    Example:
        >>> unlike = np.array([[0, 1, 0.2], [1, 0, 0.9], [0.2, 0.9, 0]])
        >>> group(np.array([3.0, 2.0, 1.0]), unlike, [0, 1])
        (((0, 0.75), (2, 0.25)), ((1, 1.0),))
    """
    left = [e for e in range(len(saliency)) if e not in set(kept) and saliency[e] > 0]
    takers = sorted((e for e in kept if e not in set(alone)), key=lambda e: -saliency[e])
    room = max(most - 1, math.ceil(len(left) / max(1, len(takers))))
    members: dict[int, list[int]] = {e: [e] for e in kept}
    for first in takers:
        nearest = sorted(left, key=lambda e: float(unlikeness[first, e]))[:room]
        members[first] += nearest
        left = [e for e in left if e not in nearest]
    return tuple(_weighted(members[e], saliency) for e in kept)


def _weighted(members: Sequence[int], saliency: F64) -> tuple[tuple[int, float], ...]:
    first, *others = members
    shares = saliency[others] / max(float(saliency[list(members)].sum()), 1e-300)
    chosen = [(e, w) for e, share in zip(others, shares, strict=True) if (w := _rounded(share)) > 0]
    own = round(1 - sum(w for _, w in chosen), DIGITS)
    return ((first, own), *chosen)


def _rounded(share: float) -> float:
    return round(float(share), DIGITS)


def text_of(groups: Groups) -> str:
    """As recipes write it: `0*0.75+2*0.25,1`."""
    return ",".join("+".join(f"{e}*{w:g}" if len(g) > 1 else str(e) for e, w in g) for g in groups)
