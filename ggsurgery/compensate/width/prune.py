"""Remove feed-forward channels, and refit what is left of each layer towards the uncut model.

    W' = W_P + Δ,  Δ = argmin Σ_t w_t ‖h_P Δᵀ + W_P h_P + Y_t − Z_t‖² + λ‖Δ‖²

with h_P the channels that stay, Y the input of the network and Z the uncut model's state behind
the layer: the refit of `heal`, layer by layer, each on the states of the model pruned so far
(GRAIL, arXiv 2602.23795, towards the uncut model).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...arch.channels import DOWN
from ...errors import FormatError
from ...files.progress import Progress
from ...ggufio.imatrix import Imatrix
from ...ggufio.reader import Source
from ...measure.variants import Candidates
from ...plan.channels import format_channels, keep_channels
from ...plan.heal import PROJECTION, places
from ...plan.recipe import Recipe, Step, step
from ...plan.types import Plan
from .. import nodes
from ..calibration import Ticks, windows_of
from ..chain import Fit
from ..checks import check_tokens, check_uncut
from ..fit import Healed, healed_of
from ..settings import RIDGE, Settings
from ..sweep import Losses, Swept
from . import scores, weights
from .closed_loop import Narrowing
from .size import Size

Kept = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Choice:
    """By what channels are chosen.

    Args:
        seed: of the score random.
        imatrix: of the score wanda: instead of a measurement.
    """

    score: scores.Score = "obs"
    seed: int = 0
    imatrix: Imatrix | None = None

    @property
    def measures(self) -> bool:
        """Whether the model has to run over a text."""
        return self.score in scores.MEASURED and self.imatrix is None


@dataclass(frozen=True)
class Narrowed:
    """The channels that stay, and the recipe that leaves the others out.

    Attributes:
        kept: by layer.
        lost: by layer, the share of what the network put out that leaves without a refit, on
            the tokens of the text; empty where the score needs no text.
        uncut: mean loss of the uncut model on the held-out windows; None without a refit.
        healed: the refit; None without one.
    """

    recipe: Recipe
    size: Size
    choice: Choice
    kept: Kept
    lost: Mapping[int, float]
    uncut: float | None = None
    healed: Healed | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "channels": {"before": self.size.before, "after": self.size.after},
            "multiple": self.size.multiple,
            "layers": list(self.size.layers),
            "score": self.choice.score,
            "lost": {str(layer): share for layer, share in self.lost.items()},
            "uncut_held_out_nll": self.uncut,
            "refit": None if self.healed is None else self.healed.to_json(),
        }


def keep_step(kept: Kept) -> Step:
    """The step of a recipe that leaves the other channels out."""
    return step("keep_channels", channels={str(n): format_channels(c) for n, c in kept.items()})


def narrow(path: str | Path, size: Size, choice: Choice) -> Narrowed:
    """Choose channels by a score that needs no text; nothing is refitted.

    Raises:
        FormatError: the importance matrix lacks a layer, or is of another model.
    """
    with Source(path) as source:
        kept = _unmeasured(source, size, choice)
    return Narrowed(Recipe((keep_step(kept),)), size, choice, kept, {})


def narrow_on(
    path: str | Path,
    size: Size,
    choice: Choice,
    text: str,
    settings: Settings,
    *,
    refit: bool = True,
    n_threads: int | None = None,
    allow_unknown_arch: bool = False,
    out_type: int | None = None,
    cut_again: bool = False,
    few_tokens: bool = False,
    progress: Progress | None = None,
) -> Narrowed:
    """Choose channels and refit the layers, both on the model as far as it is pruned.

    Args:
        text: calibration text; not the one that the result is reported on.
        out_type: ggml type of `ffn_down`; None keeps its own.
        cut_again: take a file that was cut before, and fit towards it as it is.
        few_tokens: fit on fewer than two tokens for each channel.
        progress: called with (windows done, windows in all).

    Returns:
        The recipe, and the arrays for `prepare(recipe, [path], given=healed.sidecar)`.

    Raises:
        PlanError: too few tokens, or a file that was cut before.
        ArchitectureError: a layer whose output is not the sum that a refit changes.
        EngineError: the graph does not show what goes into `ffn_down`.
    """
    settings.check()
    windows, n_fit = windows_of(path, text, settings)
    n_tokens = sum(len(w) for w in windows.inputs[:n_fit])
    with Candidates(
        path,
        windows,
        cache_bytes=0,
        n_threads=n_threads,
        out_type=out_type,
        allow_unknown_arch=allow_unknown_arch,
    ) as session:
        if refit:
            if not cut_again:
                check_uncut(session.source.header)
            for layer in size.layers:
                nodes.check_layer(session, session.identity.blocks[layer], PROJECTION)
            if not few_tokens:
                check_tokens(session, settings, size.after, n_tokens)
        known = {} if choice.measures else _unmeasured(session.source, size, choice)
        n = len(session.identity.blocks)
        # all layers have one width from the start; what each keeps is decided at its turn
        first = known or dict.fromkeys(size.layers, tuple(range(size.after)))
        plan = keep_channels(session.identity, first)
        passes = len(size.layers) * (3 + refit)
        ticks = Ticks(progress, passes * len(windows))
        chain = Narrowing(session, plan, range(n), n_fit, settings, ticks)
        at = [p for p in places(plan, n) if p.position in size.layers]
        chain.start(at[0])
        kept, lost, fits = dict(known), dict[int, float](), list[Fit]()
        for place in at:
            layer = place.position
            if layer not in known:
                gram = chain.gram(place)
                kept[layer], lost[layer] = _chosen(session.source, layer, gram.matrix, size, choice)
                block = keep_channels(session.identity, {layer: kept[layer]}).blocks[layer]
                chain.replan(_with_block(chain.at.plan, layer, block))
            if refit:
                fits.append(chain.fit(place))
        before = Recipe((keep_step(kept),))
        found = Narrowed(before, size, choice, kept, lost)
        if refit:
            uncut, losses = None, None
            if len(chain.choice):
                uncut = chain.loss(chain.origin, session.identity)
                bare = chain.loss(chain.origin, before.apply(session.identity))
                losses = Losses(bare, chain.loss())
            swept = Swept(chain.at.plan, tuple(fits), (0,) * len(fits), losses)
            healed = healed_of(chain, swept, before, tuple(at), text)
            found = replace(found, recipe=healed.recipe, uncut=uncut, healed=healed)
        ticks.finish()
    return found


def _with_block(plan: Plan, layer: int, block: Any) -> Plan:
    return replace(plan, blocks=(*plan.blocks[:layer], block, *plan.blocks[layer + 1 :]))


def _unmeasured(source: Source, size: Size, choice: Choice) -> dict[int, tuple[int, ...]]:
    kept = {}
    for layer in size.layers:
        if choice.score == "random":
            kept[layer] = scores.random_channels(size.before, size.after, choice.seed, layer)
            continue
        if choice.score == "magnitude":
            values = weights.magnitudes(source, layer)
        else:
            diagonal = _squares(choice.imatrix, layer, size.before)
            values = scores.wanda(diagonal, weights.down(source, layer))
        kept[layer] = scores.best(values, size.after)
    return kept


def _squares(matrix: Imatrix | None, layer: int, count: int) -> scores.F64:
    assert matrix is not None
    name = f"blk.{layer}.{DOWN}"
    entry = matrix.entries.get(name)
    if entry is None or entry.means().size != count:
        raise FormatError(
            "the importance matrix has no fitting entry for the inputs of ffn_down",
            file=matrix.path,
            tensor=name,
            expected=f"{count} columns",
            found="no entry" if entry is None else entry.means().size,
        )
    return entry.means().astype(np.float64)


def _chosen(
    source: Source, layer: int, gram: scores.F64, size: Size, choice: Choice
) -> tuple[tuple[int, ...], float]:
    """The channels that stay, and the share of the output that leaves with the others."""
    w = weights.down(source, layer)
    diagonal = gram.diagonal().copy()
    if choice.score == "obs":
        kept = scores.obs(gram.copy(), w, size.after, RIDGE)
    else:
        score = scores.energy if choice.score == "energy" else scores.wanda
        kept = scores.best(score(diagonal, w), size.after)
    gone = np.setdiff1d(np.arange(size.before), kept)
    whole = float(((w @ gram) * w).sum())
    part = w[:, gone]
    return kept, float(((part @ gram[np.ix_(gone, gone)]) * part).sum()) / max(whole, 1e-300)
