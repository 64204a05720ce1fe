"""Heal a cut without training: refit what writes to the residual stream by least squares.

Where layers are gone, the layer in front has to give what they would have given; then the
next kept layers are refitted too, each on the states of the model healed so far:

    tw      T = argmin Σ_t w_t ‖M_t T + Y_t − Z_t‖² + λ‖T − I‖²,   W' = Tᵀ W
            (ReplaceMe, Shopkhoev et al. 2025, least squares)
    refit   Δ = argmin Σ_t w_t ‖G_t Δᵀ + M_t + Y_t − Z_t‖² + λ‖Δ‖²,  W' = W + Δ
    scale   the state behind the cut × mean ‖Z_t‖ / ‖M_t + Y_t‖    (Prune&Comp, 2026)

with Z the uncut model's state. The first two are one ridge regression of the residual
Z − Y − M, on the features M or G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GGSurgeryError, PlanError
from ..files.progress import Progress
from ..ggufio.constants import GGMLQuantizationType
from ..ggufio.header import read_header
from ..measure.variants import Candidates
from ..plan.edits import Add, Drop
from ..plan.heal import Place, check_cut, places
from ..plan.ops import delete
from ..plan.recipe import PLAIN_STEPS, Recipe, Step
from ..plan.types import Edited, Plan, references
from .calibration import Ticks, windows_of
from .chain import Chain, Fit
from .checks import check_layers, check_sink, check_uncut
from .settings import DEFAULT, Chosen, Settings
from .sidecar import Sidecar
from .step import heal_step
from .sweep import Losses, Swept, runs_of, sweep

F32 = NDArray[np.float32]

#: Types that keep a correction as it is.
FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)


@dataclass(frozen=True)
class Healed:
    """A cut with its corrections: the recipe and the arrays that it names."""

    recipe: Recipe
    plan: Plan
    sidecar: Sidecar
    swept: Swept
    seams: tuple[Place, ...]
    settings: Settings
    windows: tuple[int, int]

    @property
    def fits(self) -> tuple[Fit, ...]:
        return self.swept.fits

    @property
    def losses(self) -> Losses | None:
        return self.swept.losses

    def to_json(self) -> dict[str, Any]:
        losses = self.losses
        return {
            "method": self.settings.method,
            "recipe": self.recipe.to_json(),
            "sidecar": self.sidecar.digest,
            "windows": {"fit": self.windows[0], "held_out": self.windows[1]},
            "held_out_nll": None if losses is None else asdict(losses),
            "scales": {str(number): factor for number, factor in self.swept.scales},
            "cuts": [
                {"removed": list(seam.removed), "carrier": seam.position, "sweep": count}
                for seam, count in zip(self.seams, self.swept.sweeps, strict=True)
            ],
            "fits": [
                {
                    "layer": fit.number,
                    "tensor": fit.tensor,
                    "seam": fit.place.seam,
                    "ridge": fit.ridge,
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
    settings: Settings = DEFAULT,
    *,
    recipe: Recipe | None = None,
    n_threads: int | None = None,
    allow_unknown_arch: bool = False,
    out_type: int | None = None,
    cut_again: bool = False,
    few_tokens: bool = False,
    any_cut: bool = False,
    chosen: Chosen | None = None,
    progress: Progress | None = None,
) -> Healed:
    """Remove layers of a model and fit what is left; nothing is written.

    Args:
        layers: those to remove, as numbered in the file; none with a recipe.
        text: calibration text; not the one that the result is reported on.
        recipe: a cut of another kind, to be healed where it departs from the model.
        out_type: ggml type of the corrected tensors; None keeps each one's own.
        cut_again: take a file that lacks layers already, and fit towards it as it is.
        few_tokens: fit on fewer than TOKENS_PER_FEATURE tokens for each feature.
        any_cut: go on though the cut removes the layer that makes the attention sink.
        chosen: what an earlier fit chose, to make it again.
        progress: called with (windows done, windows in all).

    Returns:
        The recipe, and the arrays for `prepare(recipe, [path], given=healed.sidecar)`.

    Raises:
        PlanError: layer 0 or a layer that does not exist, settings that cannot be, too few
            tokens, a plan that cannot be healed, or a file that was cut before.
        ArchitectureError: a carrier whose output is not ffn_inp + ffn_out, or without a
            plain `ffn_down`.
        EngineError: the model's states around a cut give nothing to fit.
    """
    settings.check()
    header = read_header(path)
    if not cut_again:
        check_uncut(header)
    windows, n_fit = windows_of(path, text, settings, chosen)
    with Candidates(
        path,
        windows,
        cache_bytes=0,
        n_threads=n_threads,
        out_type=out_type,
        allow_unknown_arch=allow_unknown_arch,
    ) as session:
        plan, numbers, runs = plan_to_heal(session.identity, layers, recipe, path)
        check_layers(
            session, plan, runs, settings, sum(len(w) for w in windows.inputs[:n_fit]), few_tokens
        )
        if not any_cut:
            check_sink(session, runs)
        passes = 1 + sum(min(len(run), 1 + (settings.sweep or 4)) for run in runs)
        ticks = Ticks(progress, passes * len(windows))
        chain = Chain(session, plan, numbers, n_fit, settings, ticks)
        swept = sweep(chain, runs, chosen)
        seams = tuple(run[0] for run in runs)
        found = healed_of(chain, swept, recipe or Recipe(()), seams, text, layers)
        ticks.finish()
    return found


def healed_of(
    chain: Chain,
    swept: Swept,
    before: Recipe,
    seams: tuple[Place, ...],
    text: str,
    layers: Sequence[int] = (),
) -> Healed:
    """What a chain fitted, behind the steps of a recipe.

    Args:
        layers: those that the step of healing cuts.
    """
    session, settings, n_fit = chain.session, chain.settings, chain.n_fit
    if swept.losses is not None and _is_rounded(session, swept):
        swept = _with_unrounded(chain, swept)
    sidecar = Sidecar({fit.key: session.given[fit.key] for fit in swept.fits})
    ridges = {fit.key: fit.ridge for fit in swept.fits}
    used = Chosen(swept.sweeps, ridges, n_fit)
    last = heal_step(layers, settings, used, text, sidecar, dict(swept.scales))
    made = replace(before, steps=_with_step(before.steps, last))
    counts = (n_fit, len(session.windows) - n_fit)
    return Healed(made, made.apply(session.identity), sidecar, swept, seams, settings, counts)


def _with_step(steps: Sequence[Step], last: Step) -> tuple[Step, ...]:
    """The steps with one more behind those that change layers, in front of edits of the header."""
    n = len(steps)
    while n and steps[n - 1].operation in PLAIN_STEPS:
        n -= 1
    return (*steps[:n], last, *steps[n:])


def plan_to_heal(
    identity: Plan, layers: Sequence[int], recipe: Recipe | None, path: str | Path
) -> tuple[Plan, tuple[int, ...], list[list[Place]]]:
    """The plan to heal, how the recipe numbers its layers, and its seams (see `runs_of`).

    Raises:
        PlanError: a plan that cannot be healed, or one without a seam.
    """
    if recipe is None:
        check_cut(layers, len(identity.blocks))
        numbers = tuple(i for i in range(len(identity.blocks)) if i not in set(layers))
        plan = delete(identity, sorted(set(layers))) if layers else identity
    else:
        plan = _plan_of(recipe, identity)
        numbers = tuple(range(len(plan.blocks)))
    runs = runs_of(places(plan, len(identity.blocks)))
    if not runs:
        raise PlanError(
            "nothing to heal: the plan leaves every layer in its place",
            file=path,
            hint="Name what to cut: layers, a recipe of operations, or a cut file.",
        )
    return plan, numbers, runs


def _plan_of(recipe: Recipe, identity: Plan) -> Plan:
    plan = recipe.apply(identity)
    edited = [b for b in plan.blocks if isinstance(b, Edited)]
    if any(isinstance(e, Add) for b in edited for e in b.edits):
        raise PlanError("the recipe heals already", found=recipe.describe())
    if plan.n_sources > 1 or any(not isinstance(e, Drop) for e in plan.edits):
        raise PlanError(
            "only plans that remove, merge, move or repeat layers of one model can be healed",
            found=recipe.describe(),
            hint="Take the steps that change weights after healing.",
        )
    return plan


def _is_rounded(session: Candidates, swept: Swept) -> bool:
    """Whether a corrected tensor is stored in a quantized type."""
    if session.out_type is not None:
        return session.out_type not in FLOATS
    return any(t not in FLOATS for t in _types(session, swept))


def _types(session: Candidates, swept: Swept) -> set[int]:
    found = set()
    for fit in swept.fits:
        for ref in references(swept.plan.blocks[fit.place.position])[:1]:
            found.add(session.source.header.layer_tensors(ref.index)[fit.tensor].type)
    return found


def _with_unrounded(chain: Chain, swept: Swept) -> Swept:
    """The losses with that of the corrected tensors in F32 beside them."""
    assert swept.losses is not None
    session = chain.session
    own, session.out_type = session.out_type, int(GGMLQuantizationType.F32)
    try:
        unrounded = chain.loss(chain.origin, swept.plan)
    finally:
        session.out_type = own
    return replace(swept, losses=replace(swept.losses, unrounded=unrounded))


def check_wins(losses: Losses | None) -> None:
    """Refuse corrections that do not help; None, without held-out windows, passes.

    Raises:
        GGSurgeryError: states both losses.
    """
    if losses is None or losses.wins:
        return
    expected, found = f"a loss below {losses.bare:.4f} nats a token", f"{losses.healed:.4f}"
    if losses.unrounded is not None and losses.unrounded < losses.bare:
        raise GGSurgeryError(
            "the rounding of the corrected tensors to their type costs more than healing wins "
            "on the held-out text",
            expected=expected,
            found=f"{found}, and {losses.unrounded:.4f} without the rounding",
            hint="Keep them in more bits: `out_type` q8_0 or f16; `any_cut` writes it as it is.",
        )
    raise GGSurgeryError(
        "healing does not help: the corrections make the held-out text worse than the bare cut",
        expected=expected,
        found=found,
        hint="Give more text and `tokens`, or another cut; `any_cut` writes it as it is.",
    )
