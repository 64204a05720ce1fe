"""Weighted ridge regression from running sums: memory does not grow with the tokens.

    D = argmin Σ_t w_t ‖F_t D − R_t‖² + λ‖D‖²,     λ = ridge · mean diagonal of Σ w FᵀF

w_t is 1/‖Z_t‖² (Z: the state that is wanted), so that no position drowns the others; the
first position of a window, where attention puts what it does not need, counts `first` times
as much. Unweighted fits can explode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


class Rows(NamedTuple):
    """What one window gives a regression, its first token first.

    Attributes:
        features: F, float32 [tokens, n_features].
        residual: R, [tokens, width].
        wanted: Z, [tokens, width].
        did: what the residuals are shares of, [tokens, width].
    """

    features: F32
    residual: F32
    wanted: F32
    did: F32


class HeldOut(NamedTuple):
    """Σ w‖R‖², Σ w‖R − F D‖² and Σ w‖did‖² of `n` tokens that a fit has not seen."""

    n: int
    before: float
    after: float
    scale: float


class Gram:
    """Σ w FᵀF in float64.

    Attributes:
        n: tokens seen.
    """

    def __init__(self, n_features: int, first: float) -> None:
        self.matrix = np.zeros((n_features, n_features))
        self.first, self.n = first, 0

    def add(self, features: F32, wanted: F32) -> F32:
        """Count one window; gives the weighted features."""
        f: F32 = features * self.weights(wanted)
        self.matrix += f.T @ f
        self.n += len(f)
        return f

    def weights(self, wanted: F32) -> F32:
        """√w of each token, [tokens, 1]."""
        w = 1.0 / np.maximum(np.square(wanted, dtype=np.float64).sum(axis=1), 1e-30)
        w[0] *= self.first
        root: F32 = np.sqrt(w).astype(np.float32)[:, None]
        return root


class Regression:
    """Gram matrix and right side in float64; of two windows' features at most in memory.

    Attributes:
        before: Σ w‖R‖², the residual without any correction.
        scale: Σ w‖did‖², what `before` and `after` are shares of.
    """

    def __init__(self, n_features: int, width: int, first: float) -> None:
        self._sums = Gram(n_features, first)
        self._right = np.zeros((n_features, width))
        self.before = self.scale = 0.0

    @property
    def n(self) -> int:
        """Tokens seen."""
        return self._sums.n

    def add(self, rows: Rows) -> None:
        """Count one window."""
        root = self._sums.weights(rows.wanted)
        f, r = self._sums.add(rows.features, rows.wanted), rows.residual * root
        self._right += f.T @ r
        self.before += float(np.square(r, dtype=np.float64).sum())
        self.scale += float(np.square(rows.did * root, dtype=np.float64).sum())

    def held_out(self, windows: Sequence[Rows], d: F64) -> HeldOut:
        """What a solution leaves of windows that it has not seen."""
        n, before, after, scale = 0, 0.0, 0.0, 0.0
        for rows in windows:
            root = self._sums.weights(rows.wanted)
            left = rows.residual - rows.features @ d
            n += len(rows.features)
            before += float(np.square(rows.residual * root, dtype=np.float64).sum())
            after += float(np.square(left * root, dtype=np.float64).sum())
            scale += float(np.square(rows.did * root, dtype=np.float64).sum())
        return HeldOut(n, before, after, scale)

    def best_ridge(self, windows: Sequence[Rows], ridges: Sequence[float]) -> float:
        """The ridge whose solution leaves least of windows that it has not seen."""
        left = [self.held_out(windows, self.solve(ridge)[0]).after for ridge in ridges]
        return ridges[int(np.argmin(left))]

    @property
    def fits(self) -> bool:
        """Whether there are features and a residual, and numbers all of them."""
        size = float(np.trace(self._sums.matrix))
        finite = 0 < size < math.inf and bool(np.isfinite(self._right).all())
        return finite and 0 < self.scale < math.inf

    def solve(self, ridge: float) -> tuple[F64, float]:
        """D [n_features, width], and Σ w‖R − F D‖² with it.

        Only where it `fits`.
        """
        gram, right = self._sums.matrix, self._right
        load = ridge * float(np.trace(gram)) / len(gram)
        diagonal = gram.diagonal().copy()
        gram.flat[:: len(gram) + 1] += load  # in place: the matrix is the largest thing here
        d = np.asarray(np.linalg.solve(gram, right), np.float64)
        gram.flat[:: len(gram) + 1] = diagonal
        # (G + λ) D = right, so Σ w‖R − F D‖² needs no product with G again
        after = self.before - float((d * right).sum()) - load * float(np.square(d).sum())
        return d, max(0.0, after)
