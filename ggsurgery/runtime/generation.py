"""Token by token: greedy or sampled continuation of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .nonfinite import not_finite

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True, slots=True)
class Generation:
    """A model's output.

    `reason` is `eog` (the model ended it), `stop` (a stop string occurred; it is cut off) or
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
    each: Callable[[list[int]], object] | None = None,
) -> Generation:
    """Continue `tokens` from an empty cache.

    Args:
        stop: strings at which generation ends.
        each: called with all tokens so far, after each.
        temperature: 0 takes the likeliest token, and makes `top_k`, `top_p`, `seed` moot.
    """
    random = np.random.default_rng(seed)
    answer = _Answer(engine, stop, each)
    engine.reset()
    logits = _finite(engine, engine.decode(tokens, logits="last", copy=False)[-1], tokens)
    room = min(max_tokens, max(1, engine.n_ctx - len(tokens)))
    while answer.say(token := _choose(logits, temperature, top_k, top_p, random), room):
        logits = engine.decode([token], logits="last", copy=False)[-1]
        _finite(engine, logits, [*tokens, *answer.generated])
    return answer.result()


def _finite(
    engine: Engine, logits: NDArray[np.float32], tokens: Sequence[int]
) -> NDArray[np.float32]:
    """The logits after `tokens`, if they are numbers: of others the first token is the largest."""
    if not np.isfinite(logits.max()):  # NaN passes through a maximum
        raise not_finite(engine, tokens, f"generating behind {len(tokens)} tokens")
    return logits


class _Answer:
    """An answer as it grows, and whether it is to grow further."""

    def __init__(
        self, engine: Engine, stop: Sequence[str], each: Callable[[list[int]], object] | None = None
    ) -> None:
        self.engine = engine
        self.each = each
        self.stops = [s.encode() for s in stop if s]
        self.keep = max(map(len, self.stops), default=0)  # one may begin in an earlier piece
        self.generated: list[int] = []
        self.text = bytearray()
        self.reason: Literal["eog", "stop", "length"] = "length"

    def say(self, token: int, room: int) -> bool:
        """Add a token, if there is room for one; whether another may follow."""
        if len(self.generated) >= room:
            return False
        if token in self.engine.eog:
            self.reason = "eog"
            return False
        self.generated.append(token)
        if self.each is not None:
            self.each(self.generated)
        before = len(self.text)
        self.text += self.engine.piece(token)
        begin = max(0, before - self.keep)
        found = [at for s in self.stops if (at := self.text.find(s, begin)) >= 0]
        if found:
            del self.text[min(found) :]
            self.reason = "stop"
            return False
        return len(self.generated) < room

    def result(self) -> Generation:
        return Generation(self.text.decode("utf-8", "replace"), tuple(self.generated), self.reason)


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


def generate_together(
    engine: Engine, prompts: Sequence[Sequence[int]], *, max_tokens: int, stop: Sequence[str]
) -> list[Generation]:
    """Continue several prompts greedily, a token of each in every batch.

    Args:
        prompts: at most `engine.n_seq` of them; the engine has a context for each sequence
            (`unified=False`).

    Raises:
        EngineError: a prompt does not fit the context.
    """
    engine.reset()
    answers = [_Answer(engine, stop) for _ in prompts]
    last = np.empty(len(prompts), np.int64)  # the token from which each sequence continues
    for seq, tokens in enumerate(prompts):
        logits = engine.decode(tokens, seq=seq, logits="last", copy=False)[-1]
        last[seq] = _finite(engine, logits, tokens).argmax()
    ends = np.array([len(tokens) for tokens in prompts])
    active = np.arange(len(prompts))
    rooms = [min(max_tokens, max(1, engine.n_ctx - len(tokens))) for tokens in prompts]
    while True:
        active = active[[answers[seq].say(int(last[seq]), rooms[seq]) for seq in active]]
        if not len(active):
            return [answer.result() for answer in answers]
        logits = engine.decode_batch(last[active], ends[active], active, np.ones(len(active), bool))
        for row, at in enumerate(map(int, active)):
            _finite(engine, logits[row], [*prompts[at], *answers[at].generated])
        last[active] = logits.argmax(axis=1)
        ends[active] += 1
