"""Heal a cut: refit what is left by least squares."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from ..compensate.fit import Healed, heal
from ..compensate.pair import recipe_of_pair
from ..compensate.settings import DEFAULT, Method
from ..compensate.settings import Settings as Numbers
from ..errors import RequestError
from ..files.progress import Progress
from ..ggufio.types import type_id
from ..plan.recipe import Recipe, load_recipe
from ..plan.text import parse_layers
from ..runtime import worker
from . import cautions
from .fields import AllowUnknownArch, Model, ParseSpecial, Threads, corpus
from .request import FilePath, Settings, agreeing, option


class FitSettings(Settings, frozen=True, kw_only=True):
    """How much of a text a least-squares fit takes, and how it counts its tokens."""

    tokens: Annotated[int, option("Tokens to fit on. Memory does not grow with them.", ge=64)] = (
        DEFAULT.tokens
    )
    ctx: Annotated[int, option("Tokens of a window.", ge=8, short="-c")] = DEFAULT.ctx
    parse_special: ParseSpecial = False
    ridge: Annotated[
        float | str,
        option(
            "λ relative to the Gram matrix's mean diagonal: more keeps closer to the bare cut; "
            "auto: the best of six on held-out text.",
            metavar="auto|λ",
        ),
    ] = "auto"
    first: Annotated[
        float,
        option("How many times the first position of a window counts (the attention sink).", gt=0),
    ] = DEFAULT.first
    out_type: Annotated[
        str | None,
        option(
            "Type of the refitted matrices: f16, bf16, f32, q8_0, q4_k …; default: each one's own.",
            metavar="TYPE",
        ),
    ] = None
    cut_again: Annotated[bool, option("Take a file that was cut before.")] = False
    few_tokens: Annotated[bool, option("Fit even on too few tokens for the width.")] = False

    def agree(self) -> None:
        """Refuse an impossible ridge or type, and what the fit refuses."""
        agreeing(self.numbers.check)
        agreeing(lambda: self.type_of_refitted)

    @property
    def type_of_refitted(self) -> int | None:
        """ggml type of the refitted matrices; None: each keeps its own."""
        return None if self.out_type is None else type_id(self.out_type)

    @property
    def numbers(self) -> Numbers:
        """The settings of the fit."""
        return Numbers(
            tokens=self.tokens,
            ctx=self.ctx,
            ridge=_ridge(self.ridge),
            first=self.first,
            parse_special=self.parse_special,
        )


class HealSettings(FitSettings, frozen=True, kw_only=True):
    """How a cut is healed."""

    text: Annotated[FilePath, option("UTF-8 calibration text; report on another one.", short="-f")]
    method: Annotated[
        Method,
        option(
            "refit: solve for ffn_down itself. tw: a linear map folded into it (ReplaceMe). "
            "scale: one factor a cut (Prune&Comp), for any architecture."
        ),
    ] = DEFAULT.method
    sweep: Annotated[
        int | str,
        option(
            "Kept layers behind each cut that are refitted too; auto: as many as help on held-out "
            "text.",
            metavar="auto|N",
        ),
    ] = "auto"
    also: (
        Annotated[Literal["attention"], option("Refit attn_output of these layers too.")] | None
    ) = None
    any_cut: Annotated[
        bool,
        option(
            "Heal even the cut of the layer that makes the attention sink, and keep corrections "
            "that do not help on the held-out text.",
            flag="force",
        ),
    ] = False

    @property
    def numbers(self) -> Numbers:
        """The settings of the fit."""
        return replace(
            super().numbers,
            method=self.method,
            sweep=_sweep(self.sweep),
            attention=self.also == "attention",
        )


def _sweep(value: int | str) -> int | None:
    if value == "auto":
        return None
    number = int(value) if isinstance(value, int) or (value.isascii() and value.isdigit()) else -1
    if number < 0:
        raise RequestError("`sweep`", expected="auto, or a number from 0 on", found=value)
    return number


def _ridge(value: float | str) -> float | None:
    if value == "auto":
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise RequestError(
            "impossible `ridge`", expected="auto, or more than 0 and finite", found=value
        )
    return number


@dataclass(frozen=True, slots=True)
class HealResult:
    """The corrections, and the recipe that makes the healed model with them."""

    healed: Healed
    warnings: tuple[str, ...] = ()


class HealRequest(HealSettings, frozen=True, kw_only=True):
    """Cut layers, or take a cut, and refit what is left. Nothing is written.

    Example:
        >>> HealRequest(file="m.gguf", text="t.txt", layer="12-16").run()  # doctest: +SKIP
    """

    file: Model
    layer: str | None = None
    cut: FilePath | None = None
    recipe: Annotated[
        FilePath | None, option("A recipe of operations that cut, merge or repeat layers.")
    ] = None
    threads: Threads = None
    allow_unknown_arch: AllowUnknownArch = False

    @property
    def inputs(self) -> list[Path]:
        """Files that an output must not replace."""
        return [Path(p) for p in (self.text, self.cut, self.recipe) if p is not None]

    def check(self) -> list[str]:
        """Refuse none or several cuts; returns warnings."""
        if sum(given is not None for given in (self.layer, self.recipe, self.cut)) != 1:
            raise RequestError(
                "one cut is needed", expected="`layer`, `recipe` or a file CUT between IN and OUT"
            )
        return cautions.of_context(Path(self.file), self.ctx)

    def run(self, progress: Progress | None = None) -> HealResult:
        """Fit in a child process."""
        made: Recipe | None = None
        if self.recipe is not None:
            made = load_recipe(self.recipe)
        elif self.cut is not None:
            made = recipe_of_pair(self.file, self.cut)
        healed = worker.run(
            heal,
            Path(self.file),
            () if self.layer is None else parse_layers(self.layer),
            corpus(self.text),
            self.numbers,
            recipe=made,
            n_threads=self.threads,
            allow_unknown_arch=self.allow_unknown_arch,
            out_type=self.type_of_refitted,
            cut_again=self.cut_again,
            few_tokens=self.few_tokens,
            any_cut=self.any_cut,
            progress=progress,
        )
        return HealResult(healed, tuple(cautions.of_fits(healed.fits)))
