"""Cut a text into token windows of the context's length; refuse a text that is too short.

llama-perplexity's convention: windows of n_ctx tokens side by side, the first token of each
replaced by BOS if the model needs it, and only the second half scored, so that every
scored token has at least n_ctx/2 tokens before it:

    window   t0 t1 … t(h) | t(h+1) … t(n−1)      h = n_ctx / 2
    scored                  t(h+1) … t(n−1)      n_ctx − h − 1 tokens

llama-perplexity itself refuses a text of one window only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import EngineError, GGSurgeryError, PlanError
from ..runtime.nonfinite import not_finite
from ..runtime.protocols import LanguageModel, Logits, Tokens
from ..runtime.vocabulary import Vocabulary

#: The smallest window that the commands take, in tokens.
LEAST = 8


@dataclass(frozen=True, slots=True)
class Window:
    """One window: its number, the tokens to decode, and the tokens that its logits predict.

    Logits of `scored` predict `targets`, one each.
    """

    index: int
    inputs: Tokens
    scored: slice
    targets: Tokens


@dataclass(frozen=True)
class Windows:
    """Pieces of text: what is fed to the model, and the tokens that it should predict.

    `inputs[i]` is int32 [n_i]; `targets[i]` the same tokens before BOS replaced the first.
    """

    inputs: tuple[Tokens, ...]
    targets: tuple[Tokens, ...]

    def __iter__(self) -> Iterator[Window]:
        for index, (tokens, text) in enumerate(zip(self.inputs, self.targets, strict=True)):
            half = len(tokens) // 2
            yield Window(index, tokens, slice(half, len(tokens) - 1), text[half + 1 :])

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
        cls,
        tokens: Sequence[int] | Tokens,
        n_ctx: int,
        limit: int | None = None,
        bos: int | None = None,
        *,
        file: str | Path | None = None,
    ) -> Windows:
        """Cut tokens into whole windows of `n_ctx`.

        Args:
            limit: at most so many windows; None takes all.
            bos: replaces the first token of each, if given.
            file: the model whose tokens these are, for the error.

        Raises:
            EngineError: there are fewer than `n_ctx` tokens; the message gives the number.
        """
        text = np.ascontiguousarray(tokens, np.int32)
        count = len(text) // n_ctx
        if count < 1:
            smaller = f", or a smaller --ctx (at most {len(text)})" if len(text) >= LEAST else ""
            raise EngineError(
                f"the text is too short for a context of {n_ctx}",
                file=file,
                expected=f"at least {n_ctx} tokens (one window)",
                found=f"{len(text)} tokens",
                hint=f"Give more text{smaller}.",
            )
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
    def of_texts(
        cls,
        vocabulary: Vocabulary,
        texts: Sequence[str],
        longest: int,
        *,
        parse_special: bool = False,
    ) -> Windows:
        """Whole texts, each cut off after `longest` tokens: calibration sentences.

        Raises:
            GGSurgeryError: no text has a token that can be scored.
        """
        rows = [
            vocabulary.tokenize_array(text, parse_special=parse_special)[:longest] for text in texts
        ]
        rows = [row for row in rows if len(row) > 2]  # of two, the second half predicts nothing
        if not rows:
            raise GGSurgeryError("no calibration text", expected="at least one with three tokens")
        return cls(tuple(rows), tuple(rows))

    @classmethod
    def none(cls) -> Windows:
        """Two tokens, for a session whose metric reads no text."""
        return cls((np.zeros(2, np.int32),), (np.zeros(2, np.int32),))

    def part(self, indices: Sequence[int] | range) -> Windows:
        """Some of the windows."""
        return Windows(
            tuple(self.inputs[i] for i in indices), tuple(self.targets[i] for i in indices)
        )

    def to_fit_and_rank(self) -> tuple[Windows, Windows]:
        """Three quarters to fit candidates on, and the last quarter to compare them on.

        Raises:
            PlanError: fewer than two windows.
        """
        n = len(self)
        if n < 2:
            raise PlanError(
                "healed candidates need text to fit and to rank", expected="two windows"
            )
        cut = n - max(1, n // 4)
        return self.part(range(cut)), self.part(range(cut, n))


def window_logits(model: LanguageModel, window: Window) -> Logits:
    """Logits of a window's scored positions, float32 [n_ctx − 1 − n_ctx // 2, n_vocab].

    Raises:
        EngineError: a logit is not a number; names the graph node where that first appears.
    """
    model.reset()
    return finite(model.decode(window.inputs, logits=window.scored), window, model)


def finite(logits: Logits, window: Window, model: LanguageModel | None = None) -> Logits:
    """The logits of a window, if all of them are numbers.

    Args:
        model: finds where the others begin; None for one that holds only the last layers.

    Raises:
        EngineError: a logit is not a number.
    """
    # A sum over the vocabulary is not a number as soon as one of its terms is not.
    broken = np.flatnonzero(np.isnan(logits.sum(axis=1)))
    if broken.size:
        where = f"window {window.index}, scored position {broken[0]}"
        raise not_finite(model, window.inputs, where)
    return logits
