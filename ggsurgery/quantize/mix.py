"""Choose a type for every tensor so that the file fits and the expected loss is least.

    minimise  Σ_t loss(t, q_t)   subject to   Σ_t bytes(t, q_t) ≤ budget

solved with one Lagrange multiplier (the price of a byte), found by bisection; what is left of
the budget goes to the upgrades that help most for their bytes. Exact up to one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """One type that a tensor may take: its bytes and the loss it is expected to cost."""

    kind: str
    nbytes: int
    loss: float


def choose(options: Sequence[Sequence[Choice]], budget: int) -> list[Choice] | None:
    """One choice for each tensor, None if even the smallest do not fit.

    Example:
        >>> a = [Choice("q2_k", 10, 5.0), Choice("q8_0", 30, 0.1)]
        >>> b = [Choice("q2_k", 10, 1.0), Choice("q8_0", 30, 0.1)]
        >>> [c.kind for c in choose([a, b], 40)]
        ['q8_0', 'q2_k']
    """
    if sum(min(c.nbytes for c in o) for o in options) > budget:
        return None
    low, high = 0.0, 1.0
    while _size(_at(options, high)) > budget:
        low, high = high, high * 4
    for _ in range(200):
        middle = (low + high) / 2
        if _size(_at(options, middle)) > budget:
            low = middle
        else:
            high = middle
    return _fill(options, _at(options, high), budget)


def _at(options: Sequence[Sequence[Choice]], price: float) -> list[Choice]:
    return [min(o, key=lambda c: (c.loss + price * c.nbytes, c.nbytes)) for o in options]


def _size(chosen: Sequence[Choice]) -> int:
    return sum(c.nbytes for c in chosen)


def _fill(options: Sequence[Sequence[Choice]], chosen: list[Choice], budget: int) -> list[Choice]:
    """Spend what is left on the upgrade that gains most for its bytes, again and again."""
    left = budget - _size(chosen)
    while True:
        best: tuple[float, int, Choice] | None = None
        for index, (candidates, now) in enumerate(zip(options, chosen, strict=True)):
            for c in candidates:
                more = c.nbytes - now.nbytes
                if c.loss < now.loss and more <= left:
                    gain = (now.loss - c.loss) / max(more, 1)
                    if best is None or gain > best[0]:
                        best = (gain, index, c)
        if best is None:
            return chosen
        left -= best[2].nbytes - chosen[best[1]].nbytes
        chosen[best[1]] = best[2]
