"""LaCo (Yang et al. 2024): layers collapse into an earlier one, as long as the output stays.

    l ← H − C
    while l ≥ L:
        merge layers l … l+C−1 (fewer at the end of the stack) into l
        s ← mean over texts of cos(last hidden state of the candidate, of the original)
        s > T:  keep it; l ← l − I, and where l is beyond the stack, l ← layers − 1 − C
        else:   l ← l − 1
    stop before a merge would pass the compression limit

Three ways to merge: `paper` (Eq. 1: θ_l + Σ_k (θ_{l+k} − θ_l), every tensor), `reference`
(what the published code computes: θ_{l+m} for the seven projections, norms of l kept, since
it subtracts the base that it has just updated) and `damped` (differences times a factor).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidate, Candidates, Windows
from .candidates.session import CACHE_BYTES
from .errors import GGSurgeryError, PlanError
from .plan.recipe import Recipe, Step, step
from .plan.types import Plan
from .runtime.engine import Engine

Variant = Literal["paper", "reference", "damped"]

#: What the variants are called as methods of `merge`.
METHODS: dict[str, str] = {"paper": "rdsc", "reference": "reference", "damped": "damped"}

#: What marks a document of settings and statistics, as `Result.to_json` writes it.
FORMAT = "laco"

#: The graph node behind the final norm: what transformers calls the last hidden state.
LAST_HIDDEN = "result_norm"


@dataclass(frozen=True)
class Settings:
    """LaCo's five numbers, the limit, and the variant.

    Raises:
        PlanError: numbers that cannot be (from `check`).
    """

    merge_layers: int = 3
    lowest: int = 4
    highest: int = 28
    interval: int = 2
    threshold: float = 0.85
    max_compression: float = 0.30
    variant: Variant = "paper"
    factor: float | None = None

    def check(self, n_layers: int) -> None:
        """Refuse settings that no model of `n_layers` layers can be cut by."""
        facts = [
            (self.merge_layers >= 2, "--merge-layers", "2 or more", self.merge_layers),
            (self.lowest >= 0, "--lowest", "0 or more", self.lowest),
            (self.interval >= 1, "--interval", "1 or more", self.interval),
            (0 < self.max_compression < 1, "--max-compression", "between 0 and 1",
             self.max_compression),
            (-1 <= self.threshold <= 1, "--threshold", "a cosine, −1 to 1", self.threshold),
            (self.highest <= n_layers, "--highest", f"at most {n_layers}, the layers there are",
             self.highest),
            (self.highest - self.merge_layers >= self.lowest, "--highest minus --merge-layers",
             f"at least --lowest ({self.lowest})", self.highest - self.merge_layers),
            (self.variant in METHODS, "--variant", " or ".join(METHODS), self.variant),
        ]  # fmt: skip
        for good, name, expected, found in facts:
            if not good:
                raise PlanError(f"LaCo: {name}", expected=expected, found=found)

    def merge(self, base: int, last: int) -> Step:
        """The step that collapses layers base … last into base."""
        factor = (0.5 if self.factor is None else self.factor) if self.variant == "damped" else None
        return step("merge", layers=f"{base}-{last}", method=METHODS[self.variant], factor=factor)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One pass of the loop.

    `merged` are the layers that go, numbered as the stack stood then; `similarity` is None
    for the attempt that the compression limit stopped, and `per_text` holds its parts.
    """

    iteration: int
    base: int
    merged: tuple[int, ...]
    layers_before: int
    similarity: float | None
    accepted: bool
    per_text: tuple[float, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "base": self.base,
            "merged": list(self.merged),
            "layers_before": self.layers_before,
            "similarity": self.similarity,
            "accepted": self.accepted,
            "per_text": list(self.per_text),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a run: every attempt, the recipe of those accepted, and its plan."""

    settings: Settings
    attempts: tuple[Attempt, ...]
    steps: tuple[Step, ...]
    plan: Plan
    n_layers: int

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.steps)

    @property
    def accepted(self) -> tuple[Attempt, ...]:
        return tuple(a for a in self.attempts if a.accepted)

    def to_json(self) -> dict[str, Any]:
        """Settings and statistics as a model card states them, and the log."""
        left = len(self.plan.blocks)
        final = self.accepted[-1].per_text if self.accepted else ()
        settings: dict[str, Any] = {
            "merge_layers": self.settings.merge_layers,
            "lowest": self.settings.lowest,
            "highest": self.settings.highest,
            "interval": self.settings.interval,
            "threshold": self.settings.threshold,
            "max_compression": self.settings.max_compression,
            "variant": self.settings.variant,
            "method": METHODS[self.settings.variant],
        }
        if self.settings.factor is not None:
            settings["factor"] = self.settings.factor
        return {
            "ggsurgery": FORMAT,
            "version": 1,
            "settings": settings,
            "layers": [self.n_layers, left],
            "removed": self.n_layers - left,
            "removed_share": (self.n_layers - left) / self.n_layers,
            "iterations": len(self.attempts),
            "merges": len(self.accepted),
            "rejected": sum(a.similarity is not None and not a.accepted for a in self.attempts),
            "similarity": _summary(final),
            "recipe": self.recipe.to_json(),
            "attempts": [a.to_json() for a in self.attempts],
        }


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {"mean": float(np.mean(values)), "min": min(values), "max": max(values),
            "texts": len(values)}  # fmt: skip


def collapse(
    plan: Plan,
    settings: Settings,
    similarities: Callable[[Plan], Sequence[float]],
    report: Callable[[Attempt], object] | None = None,
) -> Result:
    """The loop itself; it knows layers and numbers, not models.

    Args:
        plan: the stack to start from.
        similarities: cosines of a candidate's last hidden states with the original's, one a
            calibration text.
        report: called with every attempt.

    Raises:
        PlanError: impossible settings.

    Example:
        >>> result = collapse(Plan.identity(36), Settings(), lambda plan: [1.0])
        >>> [a.base for a in result.accepted], len(result.plan.blocks)
        ([25, 23, 21, 19, 17], 26)
    """
    total = len(plan.blocks)
    settings.check(total)
    attempts: list[Attempt] = []
    steps: list[Step] = []
    base = settings.highest - settings.merge_layers
    while base >= settings.lowest:
        count = len(plan.blocks)
        last = min(base + settings.merge_layers - 1, count - 1)
        merged = tuple(range(base + 1, last + 1))
        number = len(attempts) + 1
        if not merged:  # the last layer has nothing behind it to take in
            base -= 1
            continue
        if (total - count + len(merged)) / total > settings.max_compression:
            note = "stopped: the compression limit would be passed"
            attempts.append(Attempt(number, base, merged, count, None, False, note=note))
            if report is not None:
                report(attempts[-1])
            break
        one = settings.merge(base, last)
        candidate = one.apply(plan)
        parts = tuple(float(s) for s in similarities(candidate))
        mean = float(np.mean(parts))
        accepted = mean > settings.threshold  # False for NaN
        attempts.append(Attempt(number, base, merged, count, mean, accepted, parts))
        if report is not None:
            report(attempts[-1])
        if accepted:
            plan = candidate
            steps.append(one)
            base -= settings.interval
            if base >= len(plan.blocks):
                base = len(plan.blocks) - 1 - settings.merge_layers
        else:
            base -= 1
    return Result(settings, tuple(attempts), tuple(steps), plan, total)


def split_text(text: str, pieces: int) -> list[str]:
    """Evenly spread calibration texts that begin at a line's start."""
    size = max(1, len(text) // pieces)
    found = []
    for number in range(pieces):
        start = number * size
        if start:
            start = text.find("\n", start) + 1 or start
        piece = text[start : start + size].strip()
        if piece:
            found.append(piece)
    return found


def laco(
    path: str | Path,
    texts: Sequence[str],
    settings: Settings,
    *,
    n_ctx: int = 256,
    cache_bytes: int = CACHE_BYTES,
    n_threads: int | None = None,
    allow_unknown_arch: bool = False,
    report: Callable[[Attempt], object] | None = None,
) -> Result:
    """Run LaCo on a file. Nothing is written: `result.recipe` makes the model.

    Args:
        texts: calibration texts, each cut off after `n_ctx` tokens.

    Raises:
        PlanError: impossible settings.
        ArchitectureError: the merged layers are of unlike kinds.
        EngineError: the model cannot be run.
    """
    with Engine.open(path, n_ctx=64, n_threads=n_threads) as engine:
        windows = Windows.of_texts(engine, texts, n_ctx)
    with Candidates(
        path, windows, cache_bytes=cache_bytes, n_threads=n_threads,
        allow_unknown_arch=allow_unknown_arch,
    ) as session:  # fmt: skip
        settings.check(len(session.identity.blocks))
        session.prepare()
        with session.open(session.identity) as original:
            reference = last_hidden(original)

        def similarities(plan: Plan) -> list[float]:
            with session.open(plan) as candidate:
                return [cosine(a, b) for a, b in zip(last_hidden(candidate), reference,
                                                     strict=True)]  # fmt: skip

        return collapse(session.identity, settings, similarities, report)


def laco_of_file(
    path: Path,
    texts: Sequence[str],
    settings: Settings,
    n_ctx: int,
    n_threads: int | None = None,
    allow_unknown_arch: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Result:
    """`laco`, made to be run by `runtime.worker.run`: progress is (attempts, attempts at most)."""
    most = settings.highest - settings.merge_layers - settings.lowest + 1

    def report(attempt: Attempt) -> None:
        if progress is not None:
            progress(attempt.iteration, max(most, attempt.iteration))

    return laco(
        path, texts, settings, n_ctx=n_ctx, n_threads=n_threads,
        allow_unknown_arch=allow_unknown_arch, report=report,
    )  # fmt: skip


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
                file=candidate.engine.path, tensor=LAST_HIDDEN,
            )  # fmt: skip
        states.append(found.ravel())
    return states


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine of two vectors in float64; 0 where one is zero."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size else 0.0
