"""A text in windows of the context's length, and what makes it too short, too long or broken.

llama-perplexity's convention: windows of n_ctx tokens side by side, the first token of each
replaced by BOS where the model wants one, and only the second half scored, so that every
scored token has at least n_ctx/2 tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..runtime.nonfinite import not_finite

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]


class Decoder(Protocol):
    """The part of `runtime.engine.Engine` that windows need."""

    n_ctx: int
    n_vocab: int
    add_bos: bool
    bos: int | None

    def reset(self) -> None: ...

    def decode(self, tokens: Sequence[int] | Tokens, *, logits: slice) -> Logits: ...

    def first_nonfinite(self, tokens: Sequence[int] | Tokens) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Window:
    """One window: its number, the tokens to decode, and the tokens that its logits predict.

    `inputs` has n_ctx tokens; logits of `scored` predict `targets`, one each.
    """

    index: int
    inputs: Tokens
    scored: slice
    targets: Tokens


def n_windows(
    n_tokens: int, n_ctx: int, limit: int | None = None, *, file: str | Path | None = None
) -> int:
    """How many windows a text gives.

    Args:
        file: the model whose tokens these are, for the error.

    Raises:
        EngineError: fewer tokens than two windows need; says how many there are.
    """
    if n_tokens < 2 * n_ctx:
        smaller = f" or a context of at most {n_tokens // 2} (--ctx)" if n_tokens >= 16 else ""
        raise EngineError(
            f"the text is too short for a context of {n_ctx}", file=file,
            expected=f"at least {2 * n_ctx} tokens", found=f"{n_tokens} tokens",
            hint=f"Use a longer text{smaller}.",
        )  # fmt: skip
    whole = n_tokens // n_ctx
    return whole if limit is None else min(whole, limit)


def windows(
    tokens: Sequence[int] | Tokens, n_ctx: int, *, bos: int | None = None, limit: int | None = None
) -> Iterator[Window]:
    """Cut a text into whole windows; `bos` replaces the first token of each if given.

    Whether the text is long enough to be measured is asked with `n_windows`.
    """
    text = np.asarray(tokens, dtype=np.int32)
    first = n_ctx // 2
    whole = len(text) // n_ctx
    for index in range(whole if limit is None else min(whole, limit)):
        inputs = text[index * n_ctx : (index + 1) * n_ctx].copy()
        targets = inputs[first + 1 :].copy()
        if bos is not None:
            inputs[0] = bos
        yield Window(index, inputs, slice(first, n_ctx - 1), targets)


def window_logits(engine: Decoder, window: Window) -> Logits:
    """Logits of a window's scored positions, float32 [n_ctx − 1 − n_ctx // 2, n_vocab].

    Raises:
        EngineError: a logit is not a number; names the graph node where that first appears.
    """
    engine.reset()
    logits = engine.decode(window.inputs, logits=window.scored)
    # A sum over the vocabulary is not a number as soon as one of its terms is not.
    broken = np.flatnonzero(np.isnan(logits.sum(axis=1)))
    if broken.size:
        where = f"window {window.index}, scored position {broken[0]}"
        raise not_finite(engine, window.inputs, where)
    return logits


def log_softmax(logits: Logits) -> NDArray[np.float32]:
    """log softmax over the last axis in place, float32 as llama.cpp computes it."""
    logits -= logits.max(axis=1, keepdims=True)
    total = np.exp(logits).sum(axis=1, dtype=np.float64)
    logits -= np.log(total).astype(np.float32)[:, None]
    return logits
