"""Kullback-Leibler divergence of next-token distributions, over slices of the positions.

    KL = Σ_v p(v) · (log p(v) − log q(v)),   p of the uncut model, q of the trained one

The logits of a window of 512 tokens take 300 MB with a vocabulary of 150,000; a slice at a time
is computed, and its gradient goes into the states before the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterator

from .network import Network, Tensor, load_torch

#: Bytes of one matrix of logits at most.
SLICE_BYTES = 1 << 26


def divergence(
    teacher: Network, wanted: Tensor, student: Network, states: Tensor, *, gradient: float = 0.0
) -> float:
    """The divergence summed over the positions of a window.

    Args:
        wanted: the teacher's states behind the final norm, [n, width].
        states: the student's.
        gradient: the weight with which the divergence is differentiated into the student's
            parameters; 0 for none.
    """
    torch = load_torch()
    leaf = states.detach().requires_grad_(gradient != 0)
    total = 0.0
    for rows in _slices(len(states), student.head.shape[0]):
        with torch.no_grad():
            p = torch.log_softmax(teacher.logits(wanted[rows]), -1)
        with torch.set_grad_enabled(gradient != 0):
            q = torch.log_softmax(student.logits(leaf[rows]), -1)
            found = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
        total += float(found.detach())
        if gradient:
            (found * gradient).backward()
    if gradient:
        states.backward(leaf.grad)
    return total


def _slices(n: int, n_vocab: int) -> Iterator[slice]:
    size = max(1, SLICE_BYTES // (4 * n_vocab))
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
