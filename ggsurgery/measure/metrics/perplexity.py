"""Perplexity as llama-perplexity defines it, over the windows of `measure.windows`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError
from ...files.progress import Progress
from ...runtime.engine import Engine
from ...runtime.nonfinite import not_finite
from ...runtime.scoring import log_softmax_at
from ..meter import Meter, Model, exponential
from ..results.score import Score, provenance
from ..setup import Setup
from ..windows import Windows

MAX_SEQUENCES = 256  # of one context of llama.cpp (LLAMA_MAX_SEQ)


class PerplexityMeter(Meter[Windows]):
    """Items are the mean negative log-likelihoods of the windows."""

    def read(self, setup: Setup) -> Windows:
        return setup.windows()

    def windows(self, data: Windows) -> Windows:
        return data

    def base(
        self, model: Model, data: Windows, losses: Sequence[float], stack: ExitStack
    ) -> tuple[Score, Windows]:
        return self.score(losses), data

    def measure(self, model: Model, data: Windows, progress: Progress | None = None) -> Score:
        return self.score(model.losses(progress))


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood.

    Attributes:
        value: the perplexity; stderr: its standard error by the delta method.
        nll: mean negative log-likelihood a token, in nats; n: scored tokens.
        chunks: mean nll of each chunk, in text order; a paired comparison uses these.
        n_tokens: tokens that the text has; n_ctx: tokens of a chunk.
        add_bos: whether BOS preceded each chunk.
        parse_special: whether special tokens in the text were read as tokens.
    """

    file: Path
    value: float
    stderr: float
    nll: float
    n: int
    chunks: tuple[float, ...]
    n_tokens: int
    n_ctx: int
    add_bos: bool
    over_trained: bool
    parse_special: bool = False

    @property
    def score(self) -> Score:
        """As a `Score` whose items are the chunks' mean nll."""
        facts = provenance(
            self.file,
            n_ctx=self.n_ctx,
            n_chunks=len(self.chunks),
            add_bos=self.add_bos,
            n_tokens=self.n_tokens,
            parse_special=self.parse_special or None,
        )
        return Score("perplexity", self.value, self.stderr, self.n, facts, self.chunks)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.score.to_json(),
            "nll": self.nll,
            "n_tokens": self.n_tokens,
            "n_ctx": self.n_ctx,
            "n_chunks": len(self.chunks),
            "add_bos": self.add_bos,
        }


def perplexity(
    engine: Engine,
    text: str | Sequence[int] | NDArray[Any],
    n_ctx: int = 512,
    n_chunks: int | None = None,
    *,
    add_bos: bool | None = None,
    parse_special: bool = False,
    progress: Progress | None = None,
) -> Perplexity:
    """Measure the perplexity of a text (or of given tokens).

    Args:
        n_chunks: number of chunks from the start; None takes all.
        add_bos: None uses the vocabulary's setting.
        parse_special: read `<|im_start|>` and the like in a text as the tokens they name.
        progress: called with (chunks done, chunks in all).

    Returns:
        The figure; the memory it took is one batch of logits, whatever the text's length.

    Raises:
        EngineError: the text has fewer than n_ctx tokens, the engine's context is smaller
            than n_ctx, or the model gives NaN (names the layer where they first appear).
    """
    bos = engine.add_bos if add_bos is None else add_bos
    if add_bos and engine.bos is None:
        raise EngineError(
            "the vocabulary has no BOS token to put in front",
            file=engine.path,
            hint="Leave --bos away.",
        )
    tokens = _tokens(engine, text, bos, parse_special)
    if n_ctx > engine.n_ctx or n_ctx < 4:
        raise EngineError(
            "the context is too small for these chunks",
            file=engine.path,
            expected=f"4 to {engine.n_ctx} tokens",
            found=n_ctx,
        )
    cut = Windows.of_tokens(tokens, n_ctx, n_chunks, engine.bos if bos else None, file=engine.path)
    total = len(cut)
    together = 1 if engine.unified else max(1, min(engine.n_seq, engine.n_batch // n_ctx))
    means: list[float] = []
    squares = 0.0
    for begin in range(0, total, together):
        group = np.stack(cut.inputs[begin : begin + together])
        for values, row in zip(_score(engine, group), group, strict=True):
            if np.isnan(values).any():
                raise not_finite(engine, row, f"chunk {len(means)}")
            means.append(float(values.mean()))
            squares += float((values * values).sum())
        if progress is not None:
            progress(len(means), total)
    scored = n_ctx - n_ctx // 2 - 1
    n = total * scored
    nll, value = of_windows(means)
    variance = squares / n - nll * nll
    stderr = value * math.sqrt(max(0.0, variance) / (n - 1))
    return Perplexity(
        engine.path,
        value,
        stderr,
        nll,
        n,
        tuple(means),
        len(tokens),
        n_ctx,
        bos,
        engine.n_ctx_train < n_ctx,
        parse_special,
    )


def of_windows(means: Sequence[float]) -> tuple[float, float]:
    """Mean nll and perplexity from the mean nll of windows of one size."""
    nll = math.fsum(means) / len(means)
    return nll, exponential(nll)


def _tokens(
    engine: Engine, text: str | Sequence[int] | NDArray[Any], bos: bool, parse_special: bool
) -> NDArray[np.int32]:
    if not isinstance(text, str):
        return np.asarray(text, np.int32)
    tokens = engine.tokenize_array(text, parse_special=parse_special)
    if bos and not engine.add_bos and engine.bos is not None:
        return np.concatenate([np.array([engine.bos], np.int32), tokens])
    if not bos and engine.add_bos:
        return tokens[1:]
    return tokens


def _score(engine: Engine, group: NDArray[np.int32]) -> list[NDArray[np.float64]]:
    """Negative log-likelihood of the scored tokens of each chunk, [n_ctx − h − 1] each."""
    n_seq, n_ctx = group.shape
    half = n_ctx // 2
    engine.reset()
    if n_seq == 1:
        logits = engine.decode(group[0], logits=slice(half, n_ctx), copy=False)
        return [-log_softmax_at(logits[:-1], group[0, half + 1 :])]
    positions = np.tile(np.arange(n_ctx, dtype=np.int32), n_seq)
    seqs = np.repeat(np.arange(n_seq, dtype=np.int32), n_ctx)
    logits = engine.decode_batch(group.ravel(), positions, seqs, positions >= half)
    rows = logits.reshape(n_seq, n_ctx - half, -1)
    return [-log_softmax_at(rows[i, :-1], group[i, half + 1 :]) for i in range(n_seq)]


def perplexity_of_file(
    path: str | Path,
    text: str,
    *,
    n_ctx: int = 512,
    n_chunks: int | None = None,
    add_bos: bool | None = None,
    parse_special: bool = False,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Open a file and measure it, several chunks at once as llama-perplexity does.

    Made to be run by `runtime.worker.run`, which turns a crash into an error.
    """
    n_seq = min(MAX_SEQUENCES, max(1, 2048 // n_ctx))
    with Engine.open(path, n_ctx=n_ctx, n_seq=n_seq, n_threads=n_threads, unified=False) as engine:
        return perplexity(
            engine,
            text,
            n_ctx,
            n_chunks,
            add_bos=add_bos,
            parse_special=parse_special,
            progress=progress,
        )
