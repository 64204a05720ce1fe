"""Many continuations of one prefix, whose KV cache is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from .scoring import log_softmax_at

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True, slots=True)
class Continued:
    """A continuation's log p of each token, float64 [n], and whether each is the likeliest."""

    logprobs: NDArray[np.float64]
    greedy: bool


def score(
    engine: Engine, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[Continued]:
    """Log-probabilities of the tokens of continuations of one prefix, computed once.

    Continuations share batches, each in a sequence of its own that starts as a copy of the
    prefix (exact also for recurrent models). The prefix stays in the KV cache: the part that the
    next call's prefix shares with it (such as solved examples) is not decoded again. The rest of
    the cache is dropped.

    Raises:
        EngineError: an empty prefix, or more tokens than the context holds.
    """
    if not prefix:
        raise EngineError("an empty prefix predicts nothing: begin with BOS or EOS")
    if engine.n_seq_max < 2:
        raise EngineError("sharing a prefix needs a second sequence: open with n_seq=2 or more")
    longest = max((len(c) for c in continuations), default=0)
    if len(prefix) + longest > engine.n_ctx:
        raise EngineError(
            "prefix and continuation do not fit the context",
            file=engine.path,
            expected=f"at most {engine.n_ctx} tokens",
            found=len(prefix) + longest,
        )
    last = _decode_prefix(engine, list(prefix))
    results: list[Continued] = []
    group: list[Sequence[int]] = []
    room = (engine.n_ctx if engine.unified else engine.n_batch) - len(prefix)
    most = engine.n_seq_max - 1
    for continuation in continuations:
        used = sum(len(c) for c in group) + len(continuation)
        if group and (used > min(room, engine.n_batch) or len(group) >= most):
            results += _continue(engine, last, len(prefix), group)
            group = []
        group.append(continuation)
    if group:
        results += _continue(engine, last, len(prefix), group)
    engine.held_prefix = list(prefix)
    return results


def _decode_prefix(engine: Engine, prefix: list[int]) -> NDArray[np.float32]:
    """Decode a prefix behind what it shares with the one before; its last logits."""
    held, shared = engine.held_prefix, 0
    # the last token is always decoded: its logits are wanted
    while shared < min(len(held), len(prefix) - 1) and held[shared] == prefix[shared]:
        shared += 1
    last: NDArray[np.float32] | None = None
    if shared:
        try:
            last = engine.decode(prefix[shared:], logits="last", start=shared)
        except EngineError:  # a recurrent state cannot be cut back
            last = None
    if last is None:
        engine.reset()
        last = engine.decode(prefix, logits="last")
    return last


def _continue(
    engine: Engine, last: NDArray[np.float32], n_prefix: int, group: list[Sequence[int]]
) -> list[Continued]:
    llama = engine._llama
    out = [np.empty(len(c), np.float64) for c in group]
    greedy = [True] * len(group)
    for i, continuation in enumerate(group):
        if continuation:  # the prefix predicts every first token
            out[i][0] = log_softmax_at(last, np.array([continuation[0]]))[0]
            greedy[i] = int(last[-1].argmax()) == continuation[0]
    # the last token of a continuation predicts nothing that is asked for
    bodies = [list(c[:-1]) for c in group]
    if any(bodies):
        used = [i for i, body in enumerate(bodies) if body]
        for i in used:
            llama.llama_memory_seq_cp(engine._memory, 0, i + 1, -1, -1)
        tokens = np.concatenate([bodies[i] for i in used]).astype(np.int32)
        positions = np.concatenate([n_prefix + np.arange(len(bodies[i])) for i in used])
        seqs = np.concatenate([np.full(len(bodies[i]), i + 1) for i in used])
        targets = np.concatenate([np.asarray(group[i][1:]) for i in used])
        logits = engine.decode_batch(tokens, positions, seqs, np.ones(len(tokens)))
        likeliest = logits.argmax(axis=1) == targets
        found = log_softmax_at(logits, targets)
        at = 0
        for i in used:
            out[i][1:] = found[at : at + len(bodies[i])]
            greedy[i] &= bool(likeliest[at : at + len(bodies[i])].all())
            at += len(bodies[i])
            llama.llama_memory_seq_rm(engine._memory, i + 1, -1, -1)
    return [Continued(values, flag) for values, flag in zip(out, greedy, strict=True)]
