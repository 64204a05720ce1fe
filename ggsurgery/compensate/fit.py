"""Heal a cut without training: refit the projection in front of it by least squares.

Layers i+1 … i+n go. Layer i then has to say what they would have said (see `nodes`):

    tw      T = argmin Σ_t w_t ‖M_t T + Y_t − Z_t‖² + λ‖T − I‖²,   W' = Tᵀ W
            (ReplaceMe, Shopkhoev et al. 2025, least squares)
    refit   Δ = argmin Σ_t w_t ‖G_t Δᵀ + M_t + Y_t − Z_t‖² + λ‖Δ‖²,  W' = W + Δ

Both are one ridge regression of the residual Z − Y − M, on the features M or G.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, PlanError
from ..ggufio.header import read_header
from ..ggufio.types import Header
from ..measure.variants import Candidates
from ..measure.windows import Windows
from ..plan.heal import PROJECTION, Cut, cuts_of, mend
from ..plan.recipe import Recipe, Step, step
from ..plan.text import format_layers
from ..plan.types import Plan
from ..runtime.vocab_only import VocabularyFile
from ..surgery.imatrix_lineage import in_words, operations
from .nodes import Nodes, check_carrier, nodes, weights
from .regression import Regression
from .sidecar import Sidecar

F32 = NDArray[np.float32]
Method = Literal["tw", "refit"]
Progress = Callable[[int, int], object]

#: Steps that leave layers out.
CUTTING = frozenset({"delete", "keep", "merge", "bridge", "heal"})
#: Tokens for each feature of a fit, at least. Of n tokens and F features a fit leaves about
#: n / (n − F) times the residual of the best one on other tokens. SmolLM2 without layers 12-16
#: (F = 1536, bare: residual 0.75, perplexity 64.5): 2,048 tokens make it worse (0.85 held out,
#: 81.3), 4,096 better (0.42, 48.5), 32,768 leave 0.27 and 37.9.
TOKENS_PER_FEATURE = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """How a fit is made.

    Attributes:
        method: what is solved for: a map folded into `ffn_down` (tw), or itself (refit).
        tokens: how many of the text's tokens at most.
        ctx: tokens of a window.
        ridge: λ relative to the mean diagonal of the Gram matrix.
        first: how many times the first position of a window counts.
        parse_special: read special tokens in the text as the tokens they name.
    """

    method: Method = "refit"
    tokens: int = 32768
    ctx: int = 512
    ridge: float = 1e-2
    first: float = 30.0
    parse_special: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """How well one cut could be mended.

    `before` and `after` are Σ w‖residual‖² / Σ w‖Z − Y‖² without and with the correction, on
    the tokens that it was fitted on (a share of what the removed layers and the carrier's
    own feed-forward did). `unseen` is the same on the last windows, by a fit on the others: what
    it would be on another text of the kind. None where there is one window only.
    """

    cut: Cut
    tokens: int
    before: float
    after: float
    unseen: Unseen | None = None

    @property
    def overfits(self) -> bool:
        """Whether the correction makes tokens that it was not fitted on worse."""
        return self.unseen is not None and not self.unseen.after < self.unseen.before


@dataclass(frozen=True, slots=True)
class Unseen:
    """Residuals on `tokens` tokens that a fit has not seen, as shares like those of `Fit`."""

    tokens: int
    before: float
    after: float


@dataclass(frozen=True)
class Healed:
    """A cut with its correction: the recipe and the arrays that it names."""

    recipe: Recipe
    plan: Plan
    sidecar: Sidecar
    fits: tuple[Fit, ...]
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.settings.method,
            "recipe": self.recipe.to_json(),
            "sidecar": self.sidecar.digest,
            "cuts": [
                {
                    "removed": [fit.cut.first, fit.cut.last],
                    "carrier": fit.cut.carrier,
                    "tokens": fit.tokens,
                    "residual_before": fit.before,
                    "residual_after": fit.after,
                    "held_out": None if fit.unseen is None else asdict(fit.unseen),
                }
                for fit in self.fits
            ],
        }


def heal(
    path: str | Path,
    layers: Sequence[int],
    text: str,
    settings: Settings = Settings(),
    *,
    n_threads: int | None = None,
    allow_unknown_arch: bool = False,
    cut_again: bool = False,
    few_tokens: bool = False,
    progress: Progress | None = None,
) -> Healed:
    """Remove layers of a model and fit what is left; nothing is written.

    Args:
        layers: those to remove, as numbered in the file.
        text: calibration text; not the one that the result is reported on.
        cut_again: take a file that lacks layers already, and fit towards it as it is.
        few_tokens: fit on fewer than TOKENS_PER_FEATURE tokens for each feature.
        progress: called with (windows done, windows in all).

    Returns:
        The recipe, and the arrays for `prepare(recipe, [path], given=healed.sidecar)`.

    Raises:
        PlanError: layer 0 or a layer that does not exist, settings that cannot be, too few
            tokens, or a file that was cut before.
        ArchitectureError: a carrier whose output is not ffn_inp + ffn_out, or without a
            plain `ffn_down`.
        EngineError: the model's states around a cut give nothing to fit.
    """
    if settings.tokens < settings.ctx:
        raise PlanError(
            "fewer tokens than one window",
            expected=f"--ctx ({settings.ctx}) or more --tokens",
            found=settings.tokens,
        )
    for name, value in (("--ridge", settings.ridge), ("--first", settings.first)):
        if not 0 < value < math.inf:
            raise PlanError(f"impossible {name}", expected="more than 0, and finite", found=value)
    header = read_header(path)
    if not cut_again:
        check_uncut(header)
    count = settings.tokens // settings.ctx
    with VocabularyFile(path) as vocabulary:
        windows = Windows.of_text(
            vocabulary, text, settings.ctx, count, parse_special=settings.parse_special
        )
    arrays: dict[str, F32] = {}
    with Candidates(
        path,
        windows,
        cache_bytes=0,
        n_threads=n_threads,
        given=arrays,
        allow_unknown_arch=allow_unknown_arch,
    ) as session:
        uncut = session.identity
        cuts = cuts_of(layers, len(uncut.blocks))
        for cut in cuts:
            check_carrier(session, cut)
            if not few_tokens:
                check_tokens(header, cut, settings, sum(len(w) for w in windows.inputs))
        plan, fits, removed = uncut, [], 0
        for number, cut in enumerate(cuts):
            tick = _stepped(progress, number, len(cuts))
            fit, arrays[cut.key] = _fit(session, plan, cut, removed, settings, tick)
            plan = mend(plan, cut, removed)
            removed += len(cut)
            fits.append(fit)
    sidecar = Sidecar(arrays)
    recipe = Recipe((_step(layers, settings, text, sidecar),))
    return Healed(recipe, recipe.apply(uncut), sidecar, tuple(fits), settings)


def check_uncut(header: Header) -> None:
    """Refuse a file that lacks layers of the model that it was made from.

    Raises:
        PlanError: says what was cut.
    """
    done = operations(header)
    if any(step.operation in CUTTING for recipe, _ in done for step in recipe.steps):
        raise PlanError(
            "the file was cut before, and healing fits towards the layers that a file has",
            file=header.path,
            expected="the uncut model, and all layers to cut from it",
            found=f"a file after: {in_words(done)}",
            hint="Give the uncut model; or heal a further cut of this file with --cut-again.",
        )


def check_tokens(header: Header, cut: Cut, settings: Settings, n_tokens: int) -> None:
    """Refuse a fit on so few tokens that it learns them by heart.

    Raises:
        PlanError: says how many it takes.
    """
    shape = header.layer_tensors(cut.carrier)[PROJECTION].shape
    width = shape[0] if settings.method == "refit" else shape[1]
    least = math.ceil(TOKENS_PER_FEATURE * width / settings.ctx) * settings.ctx
    if n_tokens < least:
        raise PlanError(
            f"too few tokens to fit {width:,} features: the correction would fit these tokens and "
            "spoil others",
            file=header.path,
            expected=f"{least:,} or more",
            found=f"{n_tokens:,}",
            hint=f"Give a longer text and --tokens {least} or more, --method tw (fewer features), "
            "or --few-tokens.",
        )


def _step(layers: Sequence[int], settings: Settings, text: str, sidecar: Sidecar) -> Step:
    """The step that a header keeps: enough to fit again, and to know the result again."""
    sums = {key: sidecar.checksum(key) for key in sidecar}
    numbers = asdict(settings)
    if not settings.parse_special:  # files made before there was the option have none
        del numbers["parse_special"]
    fit = {**numbers, "text": sha256_of(text), "arrays": sums}
    return step("heal", layer=format_layers(sorted(set(layers))), fit=fit)


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _stepped(progress: Progress | None, number: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, n: progress(number * n + done, total * n)


def _fit(
    session: Candidates,
    plan: Plan,
    cut: Cut,
    removed: int,
    settings: Settings,
    progress: Progress | None,
) -> tuple[Fit, F32]:
    """The correction of one carrier, float32 in numpy's shape [n_embd, d_ff]."""
    sums: Regression | None = None
    refit = settings.method == "refit"
    kept, last = [], len(session.windows) - held_out_windows(len(session.windows))
    for number, seen in enumerate(nodes(session, plan, cut, removed)):
        features = seen.g if refit else seen.m
        if sums is None:
            sums = Regression(features.shape[1], seen.m.shape[1], settings.first)
        if number < last:
            sums.add(features, *_residual(seen))
        else:
            kept.append((features, *_residual(seen)))
        if progress is not None:
            progress(number + 1, len(session.windows))
    assert sums is not None
    unseen = None
    if kept and sums.fits:
        n, before, left, scale = sums.held_out(kept, settings.ridge)
        unseen = Unseen(n, before / scale, left / scale) if scale > 0 else None
    for window in kept:  # the correction itself is fitted on all of the text
        sums.add(*window)
    if not 0 < sums.scale < math.inf or not sums.fits:
        raise EngineError(
            f"layer {cut.carrier} cannot take over: the states around the cut are zero or not "
            "numbers",
            file=session.path,
            hint="`delete` without healing, or another --layer.",
        )
    d, after = sums.solve(settings.ridge)
    fit = Fit(cut, sums.n, sums.before / sums.scale, after / sums.scale, unseen)
    delta = d.T if refit else d.T @ weights(session, cut.carrier)
    return fit, np.ascontiguousarray(delta, np.float32)


def held_out_windows(n: int) -> int:
    """How many windows at the end a first fit does not see: an eighth, eight at most.

    They are held in memory, so that they must not grow with the text.
    """
    return 0 if n < 2 else min(8, max(1, n // 8))


def _residual(seen: Nodes) -> tuple[F32, F32, F32]:
    """R, Z and Z − Y."""
    did = seen.z - seen.y
    return did - seen.m, seen.z, did
