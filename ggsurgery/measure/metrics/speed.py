"""Tokens a second as llama-bench measures them: reading a prompt, and generating.

Both start from an empty cache; tokens are random, since speed does not depend on them. Several
files take turns, so that other load on the machine affects all of them equally and the repetitions
of two files are paired.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files.progress import Progress
from ...runtime.engine import Engine
from ...runtime.machine import cpu
from ...runtime.protocols import Tokens
from ..results.score import Score, provenance

PROMPT, GENERATION = "prompt_speed", "generation_speed"


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of one file, one value a repetition.

    Args:
        prompt: reading `n_prompt` tokens.
        generation: generating `n_generated` tokens, one after the other.
    """

    file: Path
    prompt: tuple[float, ...]
    generation: tuple[float, ...]
    n_prompt: int
    n_generated: int
    n_threads: int

    @property
    def scores(self) -> list[Score]:
        """Means with their standard errors; the items are the repetitions."""
        facts = provenance(
            self.file,
            n_prompt=self.n_prompt,
            n_generated=self.n_generated,
            n_threads=self.n_threads,
            machine=cpu()[0],
        )
        return [
            Score(
                name,
                statistics.fmean(values),
                statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
                len(values),
                facts,
                values,
            )
            for name, values in ((PROMPT, self.prompt), (GENERATION, self.generation))
        ]


def speed_of_files(
    paths: Sequence[Path],
    n_prompt: int = 512,
    n_generated: int = 128,
    repetitions: int = 5,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> list[Speed]:
    """Measure files that take turns, after a warm-up of each.

    Made to be run by `runtime.worker.run`. All files are loaded at once.

    Raises:
        EngineError: a file does not load, or is not a generative model.
    """
    random = np.random.default_rng(1)
    total = len(paths) * (repetitions + 1)
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                Engine.open(path, n_ctx=max(64, n_prompt + 1, n_generated), n_threads=n_threads)
            )
            for path in paths
        ]
        tokens = [random.integers(0, e.n_vocab, n_prompt).astype(np.int32) for e in engines]
        prompt: list[list[float]] = [[] for _ in engines]
        generation: list[list[float]] = [[] for _ in engines]
        for turn in range(repetitions + 1):
            for number, engine in enumerate(engines):
                read = _prompt(engine, tokens[number])
                made = _generation(engine, tokens[number], 1 if turn == 0 else n_generated)
                if turn > 0:
                    prompt[number].append(read)
                    generation[number].append(made)
                if progress is not None:
                    progress(turn * len(engines) + number + 1, total)
        return [
            Speed(e.path, tuple(p), tuple(g), n_prompt, n_generated, e.n_threads)
            for e, p, g in zip(engines, prompt, generation, strict=True)
        ]


def _prompt(engine: Engine, tokens: Tokens) -> float:
    engine.reset()
    began = time.perf_counter()
    engine.decode(tokens, logits="last", copy=False)
    return len(tokens) / (time.perf_counter() - began)


def _generation(engine: Engine, tokens: Tokens, count: int) -> float:
    engine.reset()
    began = time.perf_counter()
    for n in range(count):
        engine.decode(tokens[n % len(tokens)][None], logits="last", copy=False)
    return count / (time.perf_counter() - began)
