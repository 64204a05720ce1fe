"""KL of candidates from the base model, whose predictions are kept in a compact base file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...runtime.engine import Engine
from ..base_file import BaseFile
from ..metrics.kl import kl_from_file, vocabulary, write_base_file
from ..windows import Logits, Tokens
from .scratch import Scratch

if TYPE_CHECKING:
    from .session import Candidate, Candidates

#: Likeliest tokens kept a position; the rest counts as one, which makes KL a lower bound.
TOP = 256


class Reference:
    """The base model's predictions of the windows, in a scratch file."""

    def __init__(self, session: Candidates, n_threads: int | None) -> None:
        self.windows = session.windows
        n_ctx = self.windows.longest
        positions = len(self.windows) * n_ctx
        self._scratch = Scratch(8 * TOP * positions)
        file = self._scratch.folder / "base.kl"
        tokens = np.concatenate(self.windows.targets)
        if len(self.windows) < 2:
            tokens = np.concatenate([tokens, tokens])  # the base file wants two windows
        with Engine.open(session.path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=n_threads) as engine:
            self._pieces = vocabulary(engine)
            self._bos = engine.bos if engine.add_bos else None
            write_base_file(str(file), engine, tokens, k=TOP)
        self.base = BaseFile(file)

    def divergence(self, candidate: Candidate) -> list[float]:
        """Mean KL of each window, nats."""
        n = len(self.windows)
        adapter = _AsModel(candidate, self._pieces, self._bos)
        found = kl_from_file(self.base, adapter, limit=n)
        return [float(v) for v in found.kl.reshape(n, -1).mean(axis=1)]

    def close(self) -> None:
        self._scratch.close()


class _AsModel:
    """A candidate in the clothes of an engine: windows come in their order."""

    def __init__(self, candidate: Candidate, pieces: Sequence[bytes], bos: int | None) -> None:
        self.candidate, self.pieces = candidate, pieces
        self.n_ctx = candidate.windows.longest
        self.n_vocab = candidate.engine.n_vocab
        self.n_layer = candidate.engine.n_layer
        self.bos, self.add_bos = bos, bos is not None
        self._next = 0

    def reset(self) -> None:
        self.candidate.engine.reset()

    def decode(self, tokens: Sequence[int] | Tokens, *, logits: slice) -> Logits:
        index, self._next = self._next, self._next + 1
        return self.candidate.decode(index, logits=logits)

    def first_nonfinite(self, tokens: Sequence[int] | Tokens) -> str | None:
        return None  # a candidate's windows may start in the middle of the model

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self.pieces[token]
