"""Log-probabilities from logits, row by row in cache-sized pieces, on all threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import host

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

PIECE = 1 << 18  # floats a thread works on at once: 1 MB, about what a core's cache holds

#: Terms above it are exponentiated in float64: numpy's float32 exponential errs to one side, by
#: 3e-9 of a perplexity, which a printed fourth decimal can show. The many below weigh little.
NEAR = np.float32(-4)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(host.n_threads(), "ggsurgery-scoring")


def log_softmax_at(logits: F32, targets: NDArray[Any]) -> F64:
    """log softmax(logits)[i, targets[i]] for each row i.

    Args:
        logits: float32 [n, n_vocab]; not changed.
        targets: int [n].

    Returns:
        float64 [n]; NaN for a row that holds NaN. Differences to the maximum are float32, as
        in llama.cpp; exponentials that weigh, their sum and its logarithm are float64.
    """
    n, n_vocab = logits.shape
    out = np.empty(n, np.float64)
    step = max(1, PIECE // n_vocab)
    if n <= step:
        _piece(logits, targets, out, np.empty((n, n_vocab), np.float32))
        return out
    n_workers = min(host.n_threads(), -(-n // step))

    def work(first: int) -> None:
        scratch = np.empty((step, n_vocab), np.float32)
        for begin in range(first * step, n, n_workers * step):
            part = slice(begin, min(n, begin + step))
            _piece(logits[part], targets[part], out[part], scratch[: part.stop - begin])

    list(_pool().map(work, range(n_workers)))
    return out


def _piece(logits: F32, targets: NDArray[Any], out: F64, scratch: F32) -> None:
    top = logits.max(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(logits, top[:, None], out=scratch)
        near = np.flatnonzero(scratch > NEAR)
        flat = scratch.reshape(-1)  # a view: pieces are contiguous
        exact = np.exp(flat[near], dtype=np.float64)
        np.exp(scratch, out=scratch)
        flat[near] = 0
        total = scratch.sum(axis=1, dtype=np.float64)
        total += np.bincount(near // logits.shape[1], exact, len(total))
        chosen = logits[np.arange(len(targets)), targets]
        out[:] = (chosen - top).astype(np.float64) - np.log(total)
