"""The loss of a candidate over a window, with its logits computed piece by piece."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...runtime.protocols import Logits, Tokens
from ...runtime.scoring import log_softmax_at
from .candidate import Candidate

F64 = NDArray[np.float64]

#: Bytes of logits computed at once, but at least so many rows: with fewer, llama.cpp's
#: attention takes another path, which rounds to 16 bits.
LOGIT_BYTES = 12 << 20
LEAST_ROWS = 64


def window_nll(candidate: Candidate, index: int) -> float:
    """Mean negative log-likelihood (nats a token) over the second half of a window."""
    return float(window_losses(candidate, index).mean())


def window_losses(candidate: Candidate, index: int) -> F64:
    """Negative log-likelihood of each token in the second half of a window, nats.

    The logits come in pieces: all at once, twice (in the graph and in its output), would be
    the largest thing in memory beside the model. NaN logits give NaN: a broken candidate is
    a result, not an error.
    """
    target = candidate.windows.targets[index]
    n, half = len(target), len(target) // 2
    rows = max(LEAST_ROWS, LOGIT_BYTES // (4 * candidate.n_vocab))
    pieces = (n - half) // rows  # each of `rows` or more
    if pieces < 2:
        # llama-perplexity asks for one output more than it scores; the same keeps figures equal
        logits = candidate.feed(index, slice(0, n), logits=slice(half, n))
        return _losses(logits, target[half + 1 :])
    candidate.feed(index, slice(0, half), logits="none")
    parts = []
    for piece in range(pieces):
        begin, end = (half + (n - half) * i // pieces for i in (piece, piece + 1))
        logits = candidate.feed(index, slice(begin, end), logits="all")
        parts.append(_losses(logits, target[begin + 1 : end + 1]))
    return np.concatenate(parts)


def _losses(logits: Logits, following: Tokens) -> F64:
    """Losses of the rows whose next token is known."""
    with np.errstate(all="ignore"):
        return -log_softmax_at(logits[: len(following)], following)
