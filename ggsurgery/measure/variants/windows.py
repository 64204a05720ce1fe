"""The texts that candidates are measured on, as tokens, and the loss over a window.

Windows are cut as llama-perplexity cuts them (see `evaluate.perplexity`): n_ctx tokens side
by side, BOS in front where the model wants it, the second half scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import GGSurgeryError
from ...runtime.engine import Outputs
from ...runtime.scoring import log_softmax_at
from ...runtime.vocabulary import Vocabulary

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Tokens = NDArray[np.int32]

#: Bytes of logits computed at once, but at least so many rows: with fewer, llama.cpp's
#: attention takes another path, which rounds to 16 bits.
LOGIT_BYTES = 12 << 20
LEAST_ROWS = 64
#: The smallest window that the commands take, in tokens.
LEAST = 8


@dataclass(frozen=True)
class Windows:
    """Pieces of text: what is fed to the model, and the tokens that it should predict.

    `inputs[i]` is int32 [n_i]; `targets[i]` the same tokens before BOS replaced the first.
    """

    inputs: tuple[Tokens, ...]
    targets: tuple[Tokens, ...]

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def n_tokens(self) -> int:
        return sum(len(t) for t in self.inputs)

    @property
    def longest(self) -> int:
        return max(len(t) for t in self.inputs)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the tokens: equal texts, equal tokenizers, equal windows."""
        total = hashlib.sha256()
        for tokens in self.inputs:
            total.update(f"{len(tokens)}\n".encode() + tokens.astype("<i4").tobytes())
        return total.hexdigest()

    @classmethod
    def of_tokens(
        cls, tokens: Sequence[int] | Tokens, n_ctx: int, limit: int | None, bos: int | None
    ) -> Windows:
        """Cut tokens into windows of `n_ctx`.

        Raises:
            GGSurgeryError: there are fewer than `n_ctx` tokens; says how many.
        """
        text = np.ascontiguousarray(tokens, np.int32)
        count = len(text) // n_ctx
        if count < 1:
            smaller = f", or a smaller --ctx (at most {len(text)})" if len(text) >= LEAST else ""
            raise GGSurgeryError(
                "the text is too short", expected=f"at least {n_ctx} tokens (one window)",
                found=f"{len(text)} tokens", hint=f"Give more text{smaller}.",
            )  # fmt: skip
        count = count if limit is None else min(count, limit)
        rows = text[: count * n_ctx].reshape(count, n_ctx)
        inputs = rows.copy()
        if bos is not None:
            inputs[:, 0] = bos
        return cls(tuple(inputs), tuple(rows))

    @classmethod
    def of_text(
        cls,
        vocabulary: Vocabulary,
        text: str,
        n_ctx: int,
        limit: int | None = None,
        *,
        parse_special: bool = False,
    ) -> Windows:
        """Tokenize with the model's own vocabulary, then cut."""
        bos = vocabulary.bos if vocabulary.add_bos else None
        tokens = vocabulary.tokenize_array(text, parse_special=parse_special)
        return cls.of_tokens(tokens, n_ctx, limit, bos)

    @classmethod
    def of_texts(cls, vocabulary: Vocabulary, texts: Sequence[str], longest: int) -> Windows:
        """Whole texts, each cut off after `longest` tokens: calibration sentences.

        Raises:
            GGSurgeryError: no text has a token that can be scored.
        """
        rows = [vocabulary.tokenize_array(text)[:longest] for text in texts]
        rows = [row for row in rows if len(row) > 2]  # of two, the second half predicts nothing
        if not rows:
            raise GGSurgeryError("no calibration text", expected="at least one with three tokens")
        return cls(tuple(rows), tuple(rows))

    def part(self, indices: Sequence[int] | range) -> Windows:
        """Some of the windows."""
        return Windows(
            tuple(self.inputs[i] for i in indices), tuple(self.targets[i] for i in indices)
        )


class Decoder(Protocol):
    """What `window_nll` measures: a `Candidate`, or the base model while it is recorded."""

    @property
    def windows(self) -> Windows: ...
    @property
    def n_vocab(self) -> int: ...
    def feed(self, index: int, part: slice, *, logits: Outputs) -> F32: ...


def window_nll(candidate: Decoder, index: int) -> float:
    """Mean negative log-likelihood (nats a token) over the second half of a window."""
    return float(window_losses(candidate, index).mean())


def window_losses(candidate: Decoder, index: int) -> F64:
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


def _losses(logits: F32, following: Tokens) -> F64:
    """Of the rows whose next token is known."""
    with np.errstate(all="ignore"):
        return -log_softmax_at(logits[: len(following)], following)


def facts(windows: Windows) -> dict[str, Any]:
    """What a result says about the text it was measured on."""
    return {"windows": len(windows), "tokens": windows.n_tokens, "digest": windows.digest[:16]}
