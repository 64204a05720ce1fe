"""How much a feed-forward channel matters: five scores, and which channels stay by each.

With h the input of `ffn_down` (one value a channel), W its weights [width, channels] and
G = Σ w h hᵀ over the tokens of a text:

    magnitude  ‖gate_j‖ · ‖up_j‖ · ‖W_j‖          of the weights alone
    wanda      √(Σ h_j²) · Σ_i |W_ij|             (Wanda-sp, Sun et al. 2023; An et al. 2023)
    energy     G_jj · ‖W_j‖²
    obs        ‖W_j‖² / (H⁻¹)_jj, H = G + λI: the loss after the best correction of all other
               channels (optimal brain surgeon); greedy, with W and H⁻¹ updated after each
    random     by a seed, the control
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Score = Literal["obs", "energy", "wanda", "magnitude", "random"]
SCORES: tuple[str, ...] = get_args(Score)
#: Scores that are measured on a text; wanda may take an importance matrix instead.
MEASURED = ("obs", "energy", "wanda")
#: Channels that leave between two updates of the whole matrices.
BLOCK = 64


def best(values: F64, n: int) -> tuple[int, ...]:
    """The `n` channels of the highest values, in their order; of equal ones the first."""
    order = np.argsort(-values, kind="stable")[:n]
    return tuple(sorted(int(c) for c in order))


def random_channels(n_channels: int, n: int, seed: int, layer: int) -> tuple[int, ...]:
    """`n` channels by chance, others in each layer."""
    chosen = np.random.default_rng((seed, layer)).permutation(n_channels)[:n]
    return tuple(sorted(int(c) for c in chosen))


def energy(diagonal: F64, weights: F64) -> F64:
    """What each channel alone adds to the output, squared."""
    found: F64 = diagonal * np.square(weights).sum(axis=0)
    return found


def wanda(diagonal: F64, weights: F64) -> F64:
    """The norm of each channel times the sum of its weights' magnitudes."""
    found: F64 = np.sqrt(diagonal) * np.abs(weights).sum(axis=0)
    return found


def obs(gram: F64, weights: F64, n: int, ridge: float, block: int = BLOCK) -> tuple[int, ...]:
    """The `n` channels that stay where the one of least loss leaves, again and again.

    Removing channel j changes, with g = H⁻¹ e_j / (H⁻¹)_jj and S = WᵀW:

        H⁻¹ ← H⁻¹ − (H⁻¹)_jj g gᵀ,    S ← S − s gᵀ − g sᵀ + S_jj g gᵀ  (s = S e_j)

    Both are kept as a matrix and the products of the last removals, which one multiplication
    takes in for every `block` of them, so the order is that of one removal at a time.

    Args:
        gram: G, which is overwritten.
        weights: W [width, channels].
        ridge: λ relative to the mean diagonal of G.
    """
    size = len(gram)
    gram.flat[:: size + 1] += ridge * float(np.trace(gram)) / size
    inverse: F64 = np.asarray(np.linalg.inv(gram), np.float64)
    products: F64 = weights.T @ weights
    alive = np.arange(size)
    while len(alive) > n:
        count = min(block, len(alive) - n)
        gone = _block(inverse, products, count)
        left = np.ones(len(alive), bool)
        left[gone] = False
        inverse, products = inverse[left][:, left], products[left][:, left]
        alive = alive[left]
    return tuple(int(c) for c in alive)


def _block(inverse: F64, products: F64, count: int) -> list[int]:
    """The next `count` channels that leave; both matrices are brought up to date."""
    size = len(inverse)
    own, squares = inverse.diagonal().copy(), products.diagonal().copy()
    v, g, p = (np.empty((count, size)) for _ in range(3))
    gone: list[int] = []
    for k in range(count):
        with np.errstate(divide="ignore", invalid="ignore"):
            losses = squares / own
        losses[gone] = np.inf
        j = int(np.argmin(losses))
        column = inverse[j] - v[:k, j] @ v[:k]
        s = products[j] - g[:k, j] @ p[:k] - p[:k, j] @ g[:k]
        v[k] = column / np.sqrt(column[j])
        g[k] = column / column[j]
        p[k] = s - 0.5 * s[j] * g[k]
        own -= np.square(v[k])
        squares -= 2 * g[k] * p[k]
        gone.append(j)
    inverse -= v.T @ v
    crossed = g.T @ p
    products -= crossed
    products -= crossed.T
    return gone
