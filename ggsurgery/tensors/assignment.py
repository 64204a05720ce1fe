"""The linear assignment problem: each row gets a column of its own, at the largest total gain.

Shortest augmenting paths over reduced costs (Jonker & Volgenant 1987).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Order = NDArray[np.intp]


def assign(gain: F64) -> Order:
    """The column of each row, so that the sum of the chosen gains is the largest possible.

    Args:
        gain: [n, n], finite.

    Example:
        >>> assign(np.array([[1.0, 3.0], [0.0, 2.5]])).tolist()
        [1, 0]
        >>> assign(np.array([[1.0, 3.0], [0.0, 1.5]])).tolist()
        [0, 1]
    """
    cost = -np.asarray(gain, np.float64)
    n = len(cost)
    of_column = cost.min(axis=0)
    of_row = (cost - of_column).min(axis=1)
    column, row = np.full(n, -1, np.intp), np.full(n, -1, np.intp)
    for i, j in enumerate(np.argmin(cost - of_column, axis=1)):
        if row[j] < 0:
            column[i], row[j] = j, i
    for start in np.flatnonzero(column < 0):
        _augment(cost, of_row, of_column, column, row, int(start))
    return column


def _augment(cost: F64, of_row: F64, of_column: F64, column: Order, row: Order, start: int) -> None:
    """Give the row `start` a column along the cheapest path that moves other rows on."""
    n = len(cost)
    cheapest, before = np.full(n, np.inf), np.full(n, -1, np.intp)
    open_columns = np.ones(n, bool)
    rows, current, length = [start], start, 0.0
    while True:
        reach = length + (cost[current] - of_row[current] - of_column)
        better = open_columns & (reach < cheapest)
        cheapest[better], before[better] = reach[better], current
        end = int(np.argmin(np.where(open_columns, cheapest, np.inf)))
        length = float(cheapest[end])
        open_columns[end] = False
        if row[end] < 0:
            break
        current = int(row[end])
        rows.append(current)
    of_row[start] += length
    for i in rows[1:]:
        of_row[i] += length - cheapest[column[i]]
    closed = ~open_columns
    of_column[closed] -= length - cheapest[closed]
    while True:  # back along the path
        i = int(before[end])
        row[end] = i
        column[i], end = end, int(column[i])
        if i == start:
            return
