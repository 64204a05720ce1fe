"""The interface that metrics need from a model: the part of `runtime.engine.Engine` that they
call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]


class LanguageModel(Protocol):
    """A model with its vocabulary, ready to decode; `Engine` documents the methods."""

    n_ctx: int
    n_vocab: int
    add_bos: bool
    bos: int | None
    eos: int | None

    @property
    def chat_template(self) -> str | None: ...

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]: ...

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str: ...

    def piece(self, token: int, *, special: bool = False) -> bytes: ...

    def reset(self) -> None: ...

    def decode(self, tokens: Sequence[int] | Tokens, *, logits: slice) -> Logits: ...

    def first_nonfinite(self, tokens: Sequence[int] | Tokens) -> str | None: ...

    def logprobs(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]: ...

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Any: ...
