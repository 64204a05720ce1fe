"""Heal a mixture whose experts were deleted or merged: refit those that it kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..compensate.experts import HealedExperts, heal_experts
from ..compensate.pair import recipe_of_pair
from ..compensate.settings import DEFAULT
from ..compensate.settings import Settings as Numbers
from ..files.progress import Progress
from ..ggufio.types import type_id
from ..runtime import worker
from . import cautions
from .fields import Model, OutType, ParseSpecial, Threads, corpus
from .request import FilePath, Settings, option


@dataclass(frozen=True, slots=True)
class HealExpertsResult:
    """The corrections, and the recipe that makes the healed model with them."""

    healed: HealedExperts
    warnings: tuple[str, ...] = ()


class HealExpertsRequest(Settings, frozen=True, kw_only=True):
    """Refit the experts that a cut kept. Nothing is written.

    Example:
        >>> HealExpertsRequest(file="m.gguf", cut="c.gguf", text="t.txt").run()  # doctest: +SKIP
    """

    file: Model
    cut: FilePath
    text: Annotated[FilePath, option("UTF-8 calibration text; report on another one.", short="-f")]
    tokens: Annotated[int, option("Tokens to fit on. Memory does not grow with them.", ge=64)] = (
        DEFAULT.tokens
    )
    ctx: Annotated[int, option("Tokens of a window.", ge=8, short="-c")] = DEFAULT.ctx
    parse_special: ParseSpecial = False
    out_type: OutType = None
    any_cut: Annotated[
        bool, option("Keep corrections that do not help on the held-out text.", flag="force")
    ] = False
    threads: Threads = None

    def agree(self) -> None:
        """Refuse settings that cannot be."""
        self.numbers.check()

    @property
    def numbers(self) -> Numbers:
        """The settings of the fit."""
        return Numbers(tokens=self.tokens, ctx=self.ctx, parse_special=self.parse_special)

    def check(self) -> list[str]:
        """Refuse a cut of another model; returns warnings."""
        recipe_of_pair(self.file, self.cut)
        return cautions.of_context(Path(self.file), self.ctx)

    def run(self, progress: Progress | None = None) -> HealExpertsResult:
        """Fit in a child process."""
        healed = worker.run(
            heal_experts,
            Path(self.file),
            Path(self.cut),
            recipe_of_pair(self.file, self.cut),
            corpus(self.text),
            self.numbers,
            n_threads=self.threads,
            out_type=None if self.out_type is None else type_id(self.out_type),
            progress=progress,
        )
        poor = [fit.layer for fit in healed.fits if not fit.used]
        if not poor:
            return HealExpertsResult(healed)
        layers = ", ".join(map(str, poor))
        return HealExpertsResult(
            healed, (f"layers {layers} stay as they are: no correction helps on held-out text",)
        )
