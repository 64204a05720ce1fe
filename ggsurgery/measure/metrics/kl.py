"""KL divergence of a model from its base over a text, streamed window by window.

KL = Σ_v p(v) log(p(v) / q(v)) at every scored position, p of the base, q of the other model,
over the whole vocabulary. Both models decode a window in turn, so nothing is stored; or the
base comes from a compact file of its k likeliest tokens and the mass of the rest
(`basefile`), which makes the figure a lower bound (log-sum inequality).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError, GGSurgeryError
from ...files.progress import Progress
from ...runtime.protocols import LanguageModel, Logits, Tokens
from ...runtime.scoring import log_softmax, log_softmax_at, scale_of
from ..base_file import BaseFile
from ..meter import Meter, Model
from ..results.score import Score, mean_score
from ..setup import Setup
from ..variants.scratch import Scratch
from ..windows import Window, Windows, finite, window_logits

F64 = NDArray[np.float64]
_ROWS = 16  # positions worked on at once: a few MB of a large vocabulary
#: Likeliest tokens of the base that candidates are compared on; the rest counts as one.
TOP = 256


@dataclass(frozen=True, slots=True)
class Divergence:
    """Measurements at each scored position; every array is float64 [n].

    Args:
        kl: nats.
        nll_base, nll_other: nats of the true token under each model.
        same_top: 1 where both models' likeliest token is the same.
        per_window: scored positions of one window, all windows alike.
        lower_bound: the base came from a top-k file.
    """

    kl: F64
    nll_base: F64
    nll_other: F64
    same_top: F64
    per_window: int
    lower_bound: bool = False

    def scores(self, provenance: dict[str, Any]) -> list[Score]:
        """Mean, median, 99 % and maximum KL, top-1 agreement, ratio of perplexities.

        Standard errors are over positions, as llama-perplexity's are; `items` are means of
        windows, for paired comparisons.
        """
        facts = {**provenance, "lower_bound": True} if self.lower_bound else provenance
        n = len(self.kl)
        mean = mean_score("kl_mean", self.kl.tolist())
        same = mean_score("top1_agreement", self.same_top.tolist())
        log_ratio = mean_score("log", (self.nll_other - self.nll_base).tolist())
        ratio = float(np.exp(log_ratio.value))
        error = None if log_ratio.stderr is None else ratio * log_ratio.stderr
        return [
            Score("kl_mean", mean.value, mean.stderr, n, facts, self.window_kl),
            Score("kl_median", float(np.median(self.kl)), None, n, facts),
            Score("kl_p99", float(np.quantile(self.kl, 0.99)), None, n, facts),
            Score("kl_max", float(self.kl.max()), None, n, facts),
            Score("top1_agreement", same.value, same.stderr, n, facts, self.window_agreement),
            Score("perplexity_ratio", ratio, error, n, facts),
        ]

    def _windows(self, values: F64) -> tuple[float, ...]:
        return tuple(values.reshape(-1, self.per_window).mean(axis=1).tolist())

    @property
    def window_kl(self) -> tuple[float, ...]:
        """Mean KL of each window, nats."""
        return self._windows(self.kl)

    @property
    def window_agreement(self) -> tuple[float, ...]:
        """The share of positions with the same likeliest token, for each window."""
        return self._windows(self.same_top)


@dataclass(frozen=True)
class Compared:
    """The windows of a text, and the uncut model's predictions of them (a scratch file)."""

    windows: Windows
    base: BaseFile | None = None


class KLMeter(Meter[Compared]):
    """Items are the mean divergences of the windows from the uncut model's predictions.

    They come from a compact base file, so the figure is a lower bound.
    """

    def read(self, setup: Setup) -> Compared:
        return Compared(setup.windows())

    def windows(self, data: Compared) -> Windows:
        return data.windows

    def base(
        self, model: Model, data: Compared, losses: Sequence[float], stack: ExitStack
    ) -> tuple[Score, Compared]:
        windows, n_ctx = data.windows, data.windows.longest
        scratch = stack.enter_context(Scratch(8 * TOP * len(windows) * n_ctx))
        file = scratch.folder / "base.kl"
        with model.uncut(n_ctx) as engine:
            write_base_file(str(file), engine, np.concatenate(windows.targets), k=TOP)
        return self.score([self.of_itself] * len(windows)), replace(data, base=BaseFile(file))

    #: The figure of the uncut model against itself.
    of_itself = 0.0

    def items(self, found: Divergence) -> Sequence[float]:
        """One figure for each window."""
        return found.window_kl

    def measure(self, model: Model, data: Compared, progress: Progress | None = None) -> Score:
        assert data.base is not None
        with model.candidate() as candidate:

            def logits(window: Window) -> Logits:
                # no model to look into: it may hold only the last layers
                return finite(candidate.decode(window.index, logits=window.scored), window)

            return self.score(self.items(kl_from_records(data.base, logits, progress=progress)))


class AgreementMeter(KLMeter):
    """Items are the shares of positions of a window where both models' likeliest token is one."""

    of_itself = 1.0

    def items(self, found: Divergence) -> Sequence[float]:
        return found.window_agreement


def kl_divergence(
    base: LanguageModel,
    other: LanguageModel,
    tokens: Tokens,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """KL of `other` from `base`, both decoding each window in turn.

    Windows have the context's length; memory is two windows of logits.

    Raises:
        GGSurgeryError: different vocabularies or contexts, or too short a text.
        EngineError: logits that are not numbers.
    """
    if base.n_ctx != other.n_ctx:
        raise GGSurgeryError(
            "both models need one context length", expected=base.n_ctx, found=other.n_ctx
        )
    require_same_vocabulary(base, other)
    cut = Windows.of_tokens(tokens, base.n_ctx, limit, _bos(base), file=getattr(base, "path", None))
    parts = []
    for window in cut:
        p = window_logits(base, window)
        q = window_logits(other, window)
        parts.append(_compare(p, q, window.targets))
        if progress is not None:
            progress(len(parts), len(cut))
    return _joined(parts)


def kl_from_file(
    base: BaseFile,
    other: LanguageModel,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """KL of `other` from a compact base file: a lower bound, as tokens outside the k likeliest
    count as one.

    Raises:
        GGSurgeryError: the file was made with another vocabulary or context length.
        EngineError: logits that are not numbers.
    """
    if other.n_ctx != base.n_ctx:
        raise GGSurgeryError(
            "the base file was made with another context length",
            file=base.path,
            expected=base.n_ctx,
            found=other.n_ctx,
            hint=f"Use --ctx {base.n_ctx}",
        )
    base.require_vocabulary(vocabulary(other))
    return kl_from_records(base, lambda window: window_logits(other, window), limit, progress)


def kl_from_records(
    base: BaseFile,
    logits: Callable[[Window], Logits],
    limit: int | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """KL from a base file for any source of logits for its windows; see `kl_from_file`."""
    cut = Windows.of_tokens(base.tokens, base.n_ctx, limit, base.bos, file=base.path)
    parts = []
    for window in cut:
        records = base.records(window.index)
        parts.append(_compare_records(records, logits(window), window.targets))
        if progress is not None:
            progress(len(parts), len(cut))
    return replace(_joined(parts), lower_bound=True)


def write_base_file(
    path: str,
    engine: LanguageModel,
    tokens: Tokens,
    *,
    k: int = 256,
    limit: int | None = None,
    inputs: Sequence[Path] = (),
    force: bool = False,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Store a base model's predictions: k likeliest tokens, the rest's mass, the true token.

    8·k + 8 bytes a position: a text of 245,000 tokens and k = 256 take 240 MB where all
    logits of a 152k vocabulary would take 37 GB.

    Args:
        inputs: the model's files, which it must not replace and whose tighter rights it gets.

    Raises:
        OutputError: the file exists (without `force`) or cannot be written.
    """
    cut = Windows.of_tokens(
        tokens, engine.n_ctx, limit, _bos(engine), file=getattr(engine, "path", None)
    )
    with BaseFile.writer(
        path,
        tokens=np.concatenate(cut.targets),
        n_ctx=engine.n_ctx,
        k=min(k, engine.n_vocab - 1),
        vocabulary=vocabulary(engine),
        provenance=provenance or {},
        bos=_bos(engine),
        inputs=inputs,
        force=force,
    ) as write:
        for window in cut:
            write(log_softmax(window_logits(engine, window)), window.targets)
            if progress is not None:
                progress(window.index + 1, len(cut))


def vocabulary(engine: LanguageModel) -> list[bytes]:
    """The bytes of every token, special ones by name."""
    return [engine.piece(i, special=True) for i in range(engine.n_vocab)]


def require_same_vocabulary(base: LanguageModel, other: LanguageModel) -> None:
    """Refuse two models whose token ids mean different things.

    Raises:
        EngineError: names the first difference.
    """
    for i in range(min(base.n_vocab, other.n_vocab)):
        ours, theirs = base.piece(i, special=True), other.piece(i, special=True)
        if ours != theirs:
            raise EngineError(
                f"the vocabularies differ first at token {i}",
                file=getattr(other, "path", None),
                expected=repr(ours.decode("utf-8", "replace")),
                found=repr(theirs.decode("utf-8", "replace")),
                hint="KL is defined only between models that share a vocabulary",
            )
    if base.n_vocab != other.n_vocab:
        raise EngineError(
            f"the vocabularies agree up to token {min(base.n_vocab, other.n_vocab) - 1}, "
            "then one ends",
            file=getattr(other, "path", None),
            expected=f"{base.n_vocab} tokens",
            found=f"{other.n_vocab} tokens",
            hint="KL is defined only between models that share a vocabulary",
        )


def _bos(engine: LanguageModel) -> int | None:
    return engine.bos if engine.add_bos else None


def _compare(p: Logits, q: Logits, targets: Tokens) -> F64:
    """Rows of (KL, nats base, nats other, same top), float64 [positions, 4]."""
    out = np.empty((len(targets), 4))
    for start in range(0, len(targets), _ROWS):
        rows = slice(start, start + _ROWS)
        a, b = p[rows], q[rows]
        of_a, of_b = scale_of(a), scale_of(b)
        out[rows, 1] = -log_softmax_at(a, targets[rows], of_a)
        out[rows, 2] = -log_softmax_at(b, targets[rows], of_b)
        a, b = log_softmax(a, of_a), log_softmax(b, of_b)
        out[rows, 3] = a.argmax(axis=1) == b.argmax(axis=1)
        with np.errstate(invalid="ignore"):
            np.subtract(a, b, out=b)
        np.exp(a, out=a)
        # a logit of −inf has p = 0 and adds nothing, though its log ratio is not a number
        b[a == 0] = 0
        out[rows, 0] = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    return out


def _compare_records(records: NDArray[Any], q: Logits, targets: Tokens) -> F64:
    """As `_compare`, the base given by its top-k records."""
    out = np.empty((len(targets), 4))
    scale = scale_of(q)
    out[:, 2] = -log_softmax_at(q, targets, scale)
    log_softmax(q, scale)
    log_p = records["logp"].astype(np.float64)
    log_q = np.take_along_axis(q, records["id"], axis=1).astype(np.float64)
    p, rest_p = np.exp(log_p), np.exp(records["tail"].astype(np.float64))
    # 1 − Σ would cancel where the tail is thin: sum what is outside the k instead
    tail = np.exp(q, dtype=np.float64)
    np.put_along_axis(tail, records["id"], 0.0, axis=1)
    log_rest_q = np.log(np.maximum(tail.sum(axis=1), 1e-300))
    rest = np.where(rest_p > 0, rest_p * (records["tail"] - log_rest_q), 0.0)
    out[:, 0] = (p * (log_p - log_q)).sum(axis=1) + rest
    out[:, 1] = -records["target"]
    out[:, 3] = records["id"][:, 0] == q.argmax(axis=1)
    return out


def _joined(parts: list[F64]) -> Divergence:
    rows = np.concatenate(parts)
    return Divergence(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], len(parts[0]))
