"""The settings, attempts and statistics of a LaCo run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ...errors import PlanError
from ...plan.recipe import Recipe, Step, step
from ...plan.types import Plan

Variant = Literal["paper", "reference", "damped"]

#: The variants' names as methods of `merge`.
METHODS: dict[str, str] = {"paper": "rdsc", "reference": "reference", "damped": "damped"}

#: The default of L.
LOWEST = 4

#: Marks a document of settings and statistics, as written by `Result.to_json`.
FORMAT = "laco"


@dataclass(frozen=True)
class Settings:
    """LaCo's five numbers, the limit, and the variant.

    `lowest` and `highest` follow from the model where they are None (`fitted`).

    Raises:
        PlanError: numbers that cannot be (from `check`).
    """

    merge_layers: int = 3
    lowest: int | None = None
    highest: int | None = None
    interval: int = 2
    threshold: float = 0.85
    max_compression: float = 0.30
    variant: Variant = "paper"
    factor: float | None = None

    def fitted(self, n_layers: int) -> Settings:
        """The settings with `highest` and `lowest` filled in for a model of `n_layers` layers.

        H is the number of layers, as in the paper's experiments (H = 32 of 32, 40 of 40); L is
        4, the default of a published prune, or lower where H − C leaves no other start.
        """
        highest = n_layers if self.highest is None else self.highest
        lowest = max(0, min(LOWEST, highest - self.merge_layers))
        return replace(self, highest=highest, lowest=lowest if self.lowest is None else self.lowest)

    @property
    def bounds(self) -> tuple[int, int]:
        """L and H of settings that are `fitted`."""
        assert self.lowest is not None
        assert self.highest is not None
        return self.lowest, self.highest

    def check(self, n_layers: int) -> None:
        """Refuse settings that no model of `n_layers` layers can be cut by."""
        lowest, highest = self.fitted(n_layers).bounds
        facts = [
            (self.merge_layers >= 2, "`merge_layers`", "2 or more", self.merge_layers),
            (lowest >= 0, "`lowest`", "0 or more", lowest),
            (self.interval >= 1, "`interval`", "1 or more", self.interval),
            (
                0 < self.max_compression < 1,
                "`max_compression`",
                "between 0 and 1",
                self.max_compression,
            ),
            (-1 <= self.threshold <= 1, "`threshold`", "a cosine, −1 to 1", self.threshold),
            (
                highest <= n_layers,
                "`highest`",
                f"at most {n_layers}, the number of layers",
                highest,
            ),
            (
                highest - self.merge_layers >= lowest,
                "`highest` minus `merge_layers`",
                f"at least `lowest` ({lowest})",
                highest - self.merge_layers,
            ),
            (
                self.factor is None or self.variant == "damped",
                "`factor`",
                "only with `variant` damped",
                self.factor,
            ),
            (self.variant in METHODS, "`variant`", " or ".join(METHODS), self.variant),
        ]
        for good, name, expected, found in facts:
            if not good:
                raise PlanError(f"LaCo: {name}", expected=expected, found=found)

    def merge(self, base: int, last: int) -> Step:
        """The step that collapses layers base … last into base."""
        return step(
            "merge", layers=f"{base}-{last}", method=METHODS[self.variant], factor=self.used_factor
        )

    @property
    def used_factor(self) -> float | None:
        """The factor of `damped`; None for the other variants."""
        if self.variant != "damped":
            return None
        return 0.5 if self.factor is None else self.factor


#: Prefix of the note on the attempt that hit the compression limit.
STOPPED = "stopped: "


@dataclass(frozen=True, slots=True)
class Attempt:
    """One pass of the loop.

    `merged` are the removed layers, as numbered in the stack at that point; `similarity` is None
    for the attempt that the compression limit stopped and for one that the architecture
    refuses, and `per_text` holds its parts.
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
            "similarity": _number(self.similarity),
            "accepted": self.accepted,
            "per_text": [_number(s) for s in self.per_text],
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a run: every attempt, the recipe of those accepted, and its plan.

    `perplexity` is that of the calibration texts, uncut and with all accepted merges.
    """

    settings: Settings
    attempts: tuple[Attempt, ...]
    steps: tuple[Step, ...]
    plan: Plan
    n_layers: int
    perplexity: tuple[float, float] | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.steps)

    @property
    def accepted(self) -> tuple[Attempt, ...]:
        return tuple(a for a in self.attempts if a.accepted)

    def to_json(self) -> dict[str, Any]:
        """Settings and statistics as a model card states them, and the log.

        settings         merge_layers (C), lowest (L), highest (H), interval (I),
                         threshold (T), max_compression, variant, method, factor
        layers           [before, after]
        removed          layers; removed_share of all
        iterations       attempts, the one that the limit stopped among them
        merges           accepted attempts; rejected ones are counted in `rejected`
        similarity       of the result with the original: mean, min, max over the
                         calibration texts, texts (their number), values (one each);
                         null where nothing was merged
        perplexity       of the calibration texts, [before, after], or null
        recipe           that makes the model
        attempts         iteration, base, merged, layers_before, similarity, accepted,
                         per_text, note
        """
        left = len(self.plan.blocks)
        final = self.accepted[-1].per_text if self.accepted else ()
        settings = {
            "merge_layers": self.settings.merge_layers,
            "lowest": self.settings.lowest,
            "highest": self.settings.highest,
            "interval": self.settings.interval,
            "threshold": self.settings.threshold,
            "max_compression": self.settings.max_compression,
            "variant": self.settings.variant,
            "method": METHODS[self.settings.variant],
            "factor": self.settings.used_factor,
        }
        return {
            "ggsurgery": FORMAT,
            "version": 1,
            "settings": settings,
            "layers": [self.n_layers, left],
            "removed": self.n_layers - left,
            "removed_share": (self.n_layers - left) / self.n_layers,
            "iterations": len(self.attempts),
            "merges": len(self.accepted),
            "rejected": sum(
                not a.accepted and not a.note.startswith(STOPPED) for a in self.attempts
            ),
            "similarity": _summary(final),
            "perplexity": [_number(p) for p in self.perplexity] if self.perplexity else None,
            "recipe": self.recipe.to_json(),
            "attempts": [a.to_json() for a in self.attempts],
        }


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {
        "mean": float(np.mean(values)),
        "min": min(values),
        "max": max(values),
        "texts": len(values),
        "values": list(values),
    }


def _number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None
