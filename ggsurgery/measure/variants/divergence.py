"""KL of candidates from the base model, whose predictions are kept in a compact base file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...runtime.engine import Engine
from ...runtime.protocols import Logits
from ..base_file import BaseFile
from ..metrics.kl import kl_from_records, write_base_file
from ..windows import Window, finite
from .scratch import Scratch

if TYPE_CHECKING:
    from .candidate import Candidate
    from .session import Candidates

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
        with Engine.open(session.path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=n_threads) as engine:
            write_base_file(str(file), engine, tokens, k=TOP)
        self.base = BaseFile(file)

    def divergence(self, candidate: Candidate) -> list[float]:
        """Mean KL of each window, nats."""

        def logits(window: Window) -> Logits:
            # no model to look into: it may hold only the last layers
            return finite(candidate.decode(window.index, logits=window.scored), window)

        kl = kl_from_records(self.base, logits).kl
        return [float(v) for v in kl.reshape(len(self.windows), -1).mean(axis=1)]

    def close(self) -> None:
        self._scratch.close()
