"""A text in windows of the context's length, and what makes it too short, too long or broken.

llama-perplexity's convention: windows of n_ctx tokens side by side, the first token of each
replaced by BOS where the model wants one, and only the second half scored, so that every
scored token has at least n_ctx/2 tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, GGSurgeryError

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


def n_windows(n_tokens: int, n_ctx: int, limit: int | None = None) -> int:
    """How many windows a text gives.

    Raises:
        GGSurgeryError: fewer tokens than two windows need; says how many there are.
    """
    if n_tokens < 2 * n_ctx:
        raise GGSurgeryError(
            "the text is too short", expected=f"at least {2 * n_ctx} tokens (2 × n_ctx)",
            found=f"{n_tokens} tokens", hint=f"Give more text, or --ctx {max(4, n_tokens // 2)}",
        )  # fmt: skip
    whole = n_tokens // n_ctx
    return whole if limit is None else min(whole, limit)


def windows(
    tokens: Sequence[int] | Tokens, n_ctx: int, *, bos: int | None = None, limit: int | None = None
) -> Iterator[Window]:
    """Cut a text into windows; `bos` replaces the first token of each if given."""
    text = np.asarray(tokens, dtype=np.int32)
    first = n_ctx // 2
    for index in range(n_windows(len(text), n_ctx, limit)):
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
        raise not_a_number(engine, window.inputs, window.index, int(broken[0]))
    return logits


def not_a_number(engine: Decoder, tokens: Tokens, window: int, row: int) -> EngineError:
    """The error for NaN logits, with the graph node in which they first appear."""
    node = engine.first_nonfinite(tokens)
    place = f"first in graph node {node}" if node else "only in the logits"
    return EngineError(
        f"logits are not numbers: window {window}, scored position {row}, {place}",
        file=getattr(engine, "path", None),
        hint="The number behind the node's name is the layer: look at its tensors with "
        "`ggsurgery verify`",
    )


def log_softmax(logits: Logits) -> NDArray[np.float32]:
    """log softmax over the last axis in place, float32 as llama.cpp computes it."""
    logits -= logits.max(axis=1, keepdims=True)
    total = np.exp(logits).sum(axis=1, dtype=np.float64)
    logits -= np.log(total).astype(np.float32)[:, None]
    return logits
