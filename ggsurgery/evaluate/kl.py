"""KL divergence of a model from its base over a text, streamed window by window.

KL = Σ_v p(v) log(p(v) / q(v)) at every scored position, p of the base, q of the other model,
over the whole vocabulary. Both models decode a window in turn, so nothing is stored; or the
base comes from a compact file of its k likeliest tokens and the mass of the rest
(`basefile`), which makes the figure a lower bound (log-sum inequality).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, GGSurgeryError
from .score import Score, mean_score
from .windows import Decoder, Tokens, Window, log_softmax, n_windows, window_logits, windows

F64 = NDArray[np.float64]
Progress = Callable[[int], None]  # told how many windows were just done

_ROWS = 16  # positions worked on at once: a few MB of a large vocabulary


class Model(Decoder, Protocol):
    """The part of `runtime.engine.Engine` that KL needs."""

    def piece(self, token: int, *, special: bool = False) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Divergence:
    """Per scored position, all float64 [n]: KL, nats of the true token under each model,
    and 1 where both models' likeliest token is the same."""

    kl: F64
    nll_base: F64
    nll_other: F64
    same_top: F64
    n_ctx: int
    lower_bound: bool = False  # the base came from a top-k file

    def scores(self, provenance: dict[str, Any]) -> list[Score]:
        """Mean, median, 99 % and maximum KL, top-1 agreement, perplexity ratio."""
        facts = {**provenance, "n_ctx": self.n_ctx, "lower_bound": self.lower_bound or None}
        facts = {k: v for k, v in facts.items() if v is not None}
        n = len(self.kl)
        ratio = self.nll_other - self.nll_base
        mean_ratio = float(ratio.mean())
        spread = float(ratio.std(ddof=1) / n**0.5) if n > 1 else None
        return [
            mean_score("kl_mean", self._per_window(self.kl), facts)._replace_n(self.kl),
            Score("kl_median", float(np.median(self.kl)), None, n, facts),
            Score("kl_p99", float(np.quantile(self.kl, 0.99)), None, n, facts),
            Score("kl_max", float(self.kl.max()), None, n, facts),
            mean_score("top1_agreement", self.same_top.tolist(), facts),
            Score(
                "perplexity_ratio",
                float(np.exp(mean_ratio)),
                None if spread is None else float(np.exp(mean_ratio)) * spread,
                n,
                facts,
            ),
        ]
