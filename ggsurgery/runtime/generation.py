"""Token by token: greedy or sampled continuation of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model said.

    `reason` is `eog` (it ended by itself), `stop` (a stop string came; it is cut off) or
    `length` (the token budget or the context was used up).
    """

    text: str
    tokens: tuple[int, ...]
    reason: Literal["eog", "stop", "length"]


def generate(
    engine: Engine,
    tokens: Sequence[int],
    *,
    max_tokens: int,
    stop: Sequence[str],
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
) -> Generation:
    """Continue `tokens` from an empty cache.

    Args:
        stop: strings at which generation ends.
        temperature: 0 takes the likeliest token, and makes `top_k`, `top_p`, `seed` moot.
    """
    random = np.random.default_rng(seed)
    stops = [s.encode() for s in stop if s]
    keep = max(map(len, stops), default=0)  # a stop string may begin in an earlier piece
    said: list[int] = []
    text = bytearray()
    reason: Literal["eog", "stop", "length"] = "length"
    engine.reset()
    logits = engine.decode(tokens, logits="last", copy=False)[-1]
    room = engine.n_ctx - len(tokens)
    while len(said) < max_tokens:
        token = _choose(logits, temperature, top_k, top_p, random)
        if token in engine.eog:
            reason = "eog"
            break
        said.append(token)
        before = len(text)
        text += engine.piece(token)
        found = [at for s in stops if (at := text.find(s, max(0, before - keep))) >= 0]
        if found:
            del text[min(found) :]
            reason = "stop"
            break
        if len(said) >= max_tokens or len(said) > room - 1:
            break
        logits = engine.decode([token], logits="last", copy=False)[-1]
    return Generation(text.decode("utf-8", "replace"), tuple(said), reason)


def _choose(
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    random: np.random.Generator,
) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    k = min(top_k, len(logits)) if top_k > 0 else len(logits)
    best = np.argpartition(logits, len(logits) - k)[len(logits) - k :]
    best = best[np.argsort(-logits[best], kind="stable")]
    scaled = logits[best].astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    if top_p < 1:
        n = int(np.searchsorted(np.cumsum(p), top_p)) + 1
        best, p = best[:n], p[:n] / p[:n].sum()
    return int(random.choice(best, p=p))
