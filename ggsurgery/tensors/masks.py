"""Select the weights that become zero: by a threshold, a number per row, or N of every M.

Scores are compared; weights whose score is NaN are never chosen, so they stay visible.
Among equal scores those that come first in the tensor are chosen, so counts are exact.
"""

from __future__ import annotations

import numpy as np

from .kernels import Values


def mask_above(
    values: Values,
    score: Values,
    threshold: np.float32,
    cut: int | None,
    largest: bool,
    first_elements: tuple[tuple[int, int], ...],
) -> Values:
    """Zero where the score is below (`largest`: above) the threshold.

    A score equal to the threshold falls too in the first `cut` elements of the tensor
    (everywhere if None).
    """
    chosen = score > threshold if largest else score < threshold
    equal = score == threshold
    if cut is not None:
        number = np.concatenate([np.arange(a, a + n) for a, n in first_elements])
        equal &= number < cut
    return np.where(chosen | equal, np.float32(0), values)


def mask_rows(values: Values, score: Values, sparsity: float, width: int, largest: bool) -> Values:
    """Zero the same number of weights in every row of `width`: round(sparsity·width)."""
    count = round(sparsity * width)
    table = _sortable(score, largest).reshape(-1, width)
    chosen = _smallest(table, count).reshape(-1) & ~np.isnan(score)
    return np.where(chosen, np.float32(0), values)


def mask_pattern(values: Values, score: Values, n: int, m: int, largest: bool) -> Values:
    """N:M sparsity: of every `m` neighbours in a row, `m - n` become zero and `n` stay."""
    table = _sortable(score, largest).reshape(-1, m)
    chosen = _smallest(table, m - n).reshape(-1) & ~np.isnan(score)
    return np.where(chosen, np.float32(0), values)


def _sortable(score: Values, largest: bool) -> Values:
    """Scores of which the smallest are to fall; NaN comes last."""
    sortable = np.negative(score) if largest else score.copy()
    sortable[np.isnan(sortable)] = np.inf
    return sortable


def _smallest(table: Values, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """The `count` smallest of every row, ties in the order of the columns."""
    if count <= 0:
        return np.zeros(table.shape, np.bool_)
    limit = np.partition(table, count - 1, axis=1)[:, count - 1 : count]
    below = table < limit
    equal = table == limit
    wanted = count - np.count_nonzero(below, axis=1, keepdims=True)
    chosen: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    chosen = below | (equal & (np.cumsum(equal, axis=1) <= wanted))
    return chosen
