"""LaCo on a model: candidates are loaded without being written, and compared by their hidden
states.

The similarity of a candidate is the cosine of its last hidden states with the original's,
a text's states flattened over its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import GGSurgeryError
from ...files.progress import Progress
from ...ggufio.header import read_header
from ...measure.metrics.perplexity import of_windows
from ...measure.setup import CACHE_BYTES
from ...measure.variants import Candidate, Candidates
from ...measure.windows import Windows
from ...plan.types import Plan
from ...runtime.vocab_only import VocabularyFile
from .loop import collapse
from .types import Attempt, Result, Settings

#: The graph node behind the final norm: what transformers calls the last hidden state.
LAST_HIDDEN = "result_norm"


def laco(
    path: str | Path,
    texts: Sequence[str],
    settings: Settings,
    *,
    n_ctx: int = 256,
    cache_bytes: int = CACHE_BYTES,
    parse_special: bool = False,
    n_threads: int | None = None,
    allow_unknown_arch: bool = False,
    report: Callable[[Attempt], object] | None = None,
) -> Result:
    """Run LaCo on a file. Nothing is written: `result.recipe` makes the model.

    Args:
        texts: calibration texts, each cut off after `n_ctx` tokens.
        parse_special: read special tokens in the texts as the tokens they name.

    Raises:
        PlanError: impossible settings.
        ArchitectureError: an architecture without rules.
        EngineError: the model cannot be run.
    """
    with VocabularyFile(path) as vocabulary:
        windows = Windows.of_texts(vocabulary, texts, n_ctx, parse_special=parse_special)
    with Candidates(
        path,
        windows,
        cache_bytes=cache_bytes,
        n_threads=n_threads,
        allow_unknown_arch=allow_unknown_arch,
    ) as session:
        settings.check(len(session.identity.blocks))
        before = session.prepare()
        with session.open(session.identity) as original:
            reference = last_hidden(original)

        def similarities(plan: Plan) -> list[float]:
            with session.open(plan) as candidate:
                return [
                    cosine(a, b) for a, b in zip(last_hidden(candidate), reference, strict=True)
                ]

        result = collapse(session.identity, settings, similarities, report)
        if not result.steps:
            return result
        return replace(
            result, perplexity=(of_windows(before)[1], of_windows(session.nll(result.plan))[1])
        )


def laco_of_file(
    path: Path,
    texts: Sequence[str],
    settings: Settings,
    n_ctx: int,
    n_threads: int | None = None,
    allow_unknown_arch: bool = False,
    parse_special: bool = False,
    progress: Progress | None = None,
) -> Result:
    """`laco`, made to be run by `runtime.worker.run`: progress is (attempts, attempts at most)."""
    lowest, highest = settings.fitted(read_header(path).n_layers).bounds
    most = highest - settings.merge_layers - lowest + 1

    def report(attempt: Attempt) -> None:
        if progress is not None:
            progress(attempt.iteration, max(most, attempt.iteration))

    return laco(
        path,
        texts,
        settings,
        n_ctx=n_ctx,
        parse_special=parse_special,
        n_threads=n_threads,
        allow_unknown_arch=allow_unknown_arch,
        report=report,
    )


def split_text(text: str, pieces: int) -> list[str]:
    """Evenly spread calibration texts, none of which repeats a part of another.

    They begin at a line's start where one is near.

    Example:
        >>> split_text("one\\ntwo three", 2)
        ['one', 'two three']
    """
    size = max(1, len(text) // pieces)
    starts = [0]
    for start in range(size, min(len(text), pieces * size), size):
        starts.append(text.find("\n", start, start + size) + 1 or start)
    ends = [*starts[1:], len(text)]
    found = [text[a : min(b, a + size)].strip() for a, b in zip(starts, ends, strict=True)]
    return [piece for piece in found if piece]


def last_hidden(candidate: Candidate) -> list[NDArray[np.float32]]:
    """Hidden states behind the final norm of every text, flattened over its tokens.

    Raises:
        EngineError: the graph does not name them.
    """
    candidate.engine.observe([LAST_HIDDEN])
    states = []
    for index in range(len(candidate.windows)):
        candidate.decode(index, logits="all", copy=False)
        found = candidate.engine.observed.get(LAST_HIDDEN)
        if found is None:
            raise GGSurgeryError(
                "this architecture's graph does not name its last hidden state",
                file=candidate.engine.path,
                tensor=LAST_HIDDEN,
            )
        states.append(found.ravel())
    return states


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine of two vectors in float64; 0 where one is zero."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size else 0.0
