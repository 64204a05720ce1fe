"""Log-probabilities from logits, row by row in cache-sized pieces, on all threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

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


class Scale(NamedTuple):
    """Constants that turn a row of logits into log-probabilities: log p = (logit − top) − log_sum.

    `top` is float32 [n], the largest logit; `log_sum` float64 [n], log Σ exp(logit − top).
    """

    top: F32
    log_sum: F64


def log_softmax_at(logits: F32, targets: NDArray[Any], scale: Scale | None = None) -> F64:
    """log softmax(logits)[i, targets[i]] for each row i.

    Args:
        logits: float32 [n, n_vocab]; not changed.
        targets: int [n].
        scale: of these logits, if it is known.

    Returns:
        float64 [n]; NaN for a row that holds NaN. Differences to the maximum are float32, as
        in llama.cpp; exponentials that weigh, their sum and its logarithm are float64.
    """
    top, log_sum = scale_of(logits) if scale is None else scale
    chosen = logits[np.arange(len(targets)), targets]
    with np.errstate(invalid="ignore", over="ignore"):
        return (chosen - top).astype(np.float64) - log_sum  # type: ignore[no-any-return]


def log_softmax(logits: F32, scale: Scale | None = None) -> F32:
    """log softmax over the last axis in place; rounded to float32 only at the end of each step."""
    top, log_sum = scale_of(logits) if scale is None else scale
    with np.errstate(invalid="ignore", over="ignore"):
        logits -= top[:, None]
        logits -= log_sum.astype(np.float32)[:, None]
    return logits


def scale_of(logits: F32) -> Scale:
    """The scale of each row of logits, float32 [n, n_vocab]; on all threads."""
    n, n_vocab = logits.shape
    out = Scale(np.empty(n, np.float32), np.empty(n, np.float64))
    step = max(1, PIECE // n_vocab)
    if n <= step:
        _piece(logits, *out, np.empty((n, n_vocab), np.float32))
        return out
    n_workers = min(host.n_threads(), -(-n // step))

    def work(first: int) -> None:
        scratch = np.empty((step, n_vocab), np.float32)
        for begin in range(first * step, n, n_workers * step):
            part = slice(begin, min(n, begin + step))
            rows = logits[part]
            _piece(rows, out.top[part], out.log_sum[part], scratch[: len(rows)])

    list(_pool().map(work, range(n_workers)))
    return out


def _piece(logits: F32, top: F32, log_sum: F64, scratch: F32) -> None:
    np.max(logits, axis=1, out=top)
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(logits, top[:, None], out=scratch)
        near = np.flatnonzero(scratch > NEAR)
        flat = scratch.reshape(-1)  # a view: pieces are contiguous
        exact = np.exp(flat[near], dtype=np.float64)
        np.exp(scratch, out=scratch)
        flat[near] = 0
        total = scratch.sum(axis=1, dtype=np.float64)
        total += np.bincount(near // logits.shape[1], exact, len(total))
        np.log(total, out=log_sum)
