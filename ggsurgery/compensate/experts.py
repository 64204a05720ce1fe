"""Fit what a layer lacks without some of its experts into the experts that it kept.

    D_j = argmin Σ_t w_t ‖g h D_j − g R_t / G_t‖² + λ‖D_j‖²,      W_j' = W_j + D_jᵀ

over the tokens t that the router gives expert j: g its gate, G the sum of a token's gates, h
what its down projection multiplies, R what the uncut layer gives and the cut one does not. Each
of a token's experts takes its share of R, so the fits are independent, and what they add to a
token is a mean of estimates of R.

Both models see the uncut model's states in front of every layer, so one pass fits all layers
whose sums fit in memory. A layer is corrected only where that helps on windows that no fit saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arch.experts import mixture
from ..errors import ArchitectureError, EngineError, PlanError
from ..files.digest import sha256_of_text
from ..files.progress import Progress
from ..ggufio.header import read_header
from ..ggufio.types import Header
from ..measure.variants import Candidates
from ..measure.windows import Windows
from ..plan.heal import EXPERTS, key_of
from ..plan.recipe import PLAIN_STEPS, Recipe, step
from ..runtime.engine import Engine
from ..runtime.mixture_states import MixtureHook, MixtureSeen
from .calibration import Ticks, windows_of
from .regression import Regression, Rows
from .settings import RIDGES, Settings
from .sidecar import Sidecar
from .sweep import Losses

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: The steps of a recipe that can be healed here.
CUTS = frozenset({"keep_experts", "merge_experts", *PLAIN_STEPS})
#: Bytes of running sums at once; further layers take a further pass.
MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class ExpertFit:
    """One layer: its ridge, and the share of the error that is left on held-out windows.

    Attributes:
        tokens: of the expert that the fit saw least.
        used: whether the correction is part of the result.
    """

    layer: int
    ridge: float
    left: float
    tokens: int

    @property
    def used(self) -> bool:
        return self.left < 1


@dataclass(frozen=True, slots=True)
class HealedExperts:
    """A cut with its corrections; see `compensate.fit.Healed`."""

    recipe: Recipe
    sidecar: Sidecar
    fits: tuple[ExpertFit, ...]
    losses: Losses
    windows: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "method": "experts",
            "recipe": self.recipe.to_json(),
            "sidecar": self.sidecar.digest,
            "windows": {"fit": self.windows[0], "held_out": self.windows[1]},
            "held_out_nll": asdict(self.losses),
            "fits": [asdict(fit) | {"used": fit.used} for fit in self.fits],
        }


def heal_experts(
    path: Path,
    cut: Path,
    recipe: Recipe,
    text: str,
    settings: Settings,
    *,
    n_threads: int | None = None,
    out_type: int | None = None,
    progress: Progress | None = None,
) -> HealedExperts:
    """Fit the kept experts of a cut file; nothing is written. Made for `runtime.worker.run`.

    Args:
        path: the uncut model.
        cut: the file that `recipe` makes of it.
        text: calibration text; not the one that the result is reported on.

    Raises:
        PlanError: the recipe does more than delete or merge experts, or the text is too short.
        ArchitectureError: the experts' output does not reach the residual as it is.
        EngineError: the graph does not show what is fitted.
    """
    settings.check()
    _check(recipe, read_header(path))
    windows, n_fit = windows_of(path, text, settings, None)
    if n_fit == len(windows):
        raise PlanError(
            "no window is left to see whether healing helps",
            file=path,
            expected=f"a text of {2 * settings.ctx} tokens or more",
            found=sum(len(w) for w in windows.inputs),
        )
    arrays: dict[str, F32] = {}
    fits: list[ExpertFit] = []
    batches = list(_batches(read_header(cut)))
    tick = Ticks(progress, (len(batches) + 1) * len(windows))
    for layers in batches:
        for layer, sums in _collected(path, cut, layers, windows, n_fit, n_threads, tick).items():
            fit, deltas = sums.solve(layer)
            fits.append(fit)
            if fit.used:
                arrays[key_of(layer, EXPERTS)] = deltas
    if not arrays:
        raise PlanError(
            "no correction of any layer helps on the held-out text",
            file=cut,
            hint="Give more text and --tokens, or another cut.",
        )
    sidecar = Sidecar(arrays)
    made = {"method": "experts", "tokens": settings.tokens, "ctx": settings.ctx}
    sums_of = {key: sidecar.checksum(key) for key in sidecar}
    last = step("heal", fit={**made, "text": sha256_of_text(text), "arrays": sums_of})
    healed = Recipe((*recipe.steps, last), recipe.name, recipe.options)
    held_out = range(n_fit, len(windows))
    with Candidates(
        path,
        windows,
        cache_bytes=0,
        route="file",
        n_threads=n_threads,
        given=arrays,
        out_type=out_type,
    ) as session:
        bare, corrected = (
            float(np.mean(session.nll(one.apply(session.identity), held_out)))
            for one in (recipe, healed)
        )
    tick.finish()
    counts = (n_fit, len(held_out))
    return HealedExperts(healed, sidecar, tuple(fits), Losses(bare, corrected), counts)


def _check(recipe: Recipe, header: Header) -> None:
    found = mixture(header)
    other = [s.operation for s in recipe.steps if s.operation not in CUTS]
    if other or all(s.operation in PLAIN_STEPS for s in recipe.steps):
        raise PlanError(
            "only files whose experts were deleted or merged can be healed this way",
            file=header.path,
            expected="keep_experts or merge_experts",
            found=recipe.describe() or "no operation",
            hint="`ggsurgery heal` heals cuts of layers.",
        )
    for layer in found.layers:
        bad = [s for s in header.layer_tensors(layer) if s.startswith("post_ffw_norm")]
        if bad or header.architecture == "llama4":
            raise ArchitectureError(
                "the output of the experts does not reach the residual as it is",
                file=header.path,
                tensor=f"blk.{layer}.{bad[0]}" if bad else None,
                expected="experts whose weighted outputs are added to the state",
            )


def _batches(header: Header) -> Iterator[list[int]]:
    """The layers with experts, in groups whose sums fit in memory."""
    found = mixture(header)
    batch: list[int] = []
    for layer in found.layers:
        if layer >= header.n_layers or EXPERTS not in header.layer_tensors(layer):
            continue
        width, height, count = header.layer_tensors(layer)[EXPERTS].shape
        if batch and (len(batch) + 1) * 8 * count * width * (width + height) > MEMORY:
            yield batch
            batch = []
        batch.append(layer)
    if batch:
        yield batch


def _collected(
    path: Path,
    cut: Path,
    layers: Sequence[int],
    windows: Windows,
    n_fit: int,
    n_threads: int | None,
    tick: Ticks,
) -> dict[int, _LayerSums]:
    """The sums of some layers over all windows."""
    wanted = sorted({n - 1 for n in layers if n} | set(layers))
    size = max(64, windows.longest)

    def engine(file: Path) -> Engine:
        return Engine.open(file, n_ctx=size, n_batch=size, n_threads=n_threads)

    sums: dict[int, _LayerSums] = {}
    hook = MixtureHook(layers)
    with engine(path) as whole, engine(cut) as smaller:
        whole.observe([f"l_out-{n}" for n in wanted])
        smaller.set_hook(hook)
        count = mixture(read_header(cut)).n_experts
        for number, tokens in enumerate(windows.inputs):
            whole.reset()
            whole.decode(tokens, logits="all", copy=False)
            states = {n: whole.observed.get(f"l_out-{n}") for n in wanted}
            hook.forced = {n: s for n, s in states.items() if s is not None}
            smaller.reset()
            smaller.decode(tokens, logits="all", copy=False)
            for layer in layers:
                seen, state = hook.seen.pop(layer, None), states[layer]
                if seen is None or state is None:
                    raise EngineError(
                        "this architecture's graph does not show what healing fits",
                        file=path,
                        tensor=f"blk.{layer}.{EXPERTS}",
                        expected=f"ffn_moe_topk-{layer}, ffn_moe_down-{layer}, l_out-{layer}",
                    )
                one = sums.setdefault(layer, _LayerSums(count, seen.features.shape[2], state))
                one.add(seen, state, held_out=number >= n_fit)
            tick()
    return sums


class _LayerSums:
    """One regression an expert, and the held-out windows of a layer."""

    def __init__(self, count: int, n_features: int, state: F32) -> None:
        self.width, self.n_features = state.shape[1], n_features
        self.experts = [Regression(n_features, self.width, 1.0) for _ in range(count)]
        self.held_out: list[tuple[MixtureSeen, F32]] = []

    def add(self, seen: MixtureSeen, state: F32, *, held_out: bool) -> None:
        if held_out:
            self.held_out.append((seen, state))
            return
        lacking = state - seen.output
        shares = seen.gates / np.maximum(seen.gates.sum(axis=1, keepdims=True), 1e-30)
        for expert, sums in enumerate(self.experts):
            token, slot = np.nonzero(seen.ids == expert)
            if not len(token):
                continue
            features = seen.features[token, slot] * seen.gates[token, slot][:, None]
            residual = lacking[token] * shares[token, slot][:, None]
            sums.add(Rows(features, residual, state[token], residual))

    def solve(self, layer: int) -> tuple[ExpertFit, F32]:
        """The best of the ridges, and what to add to the stack [n_experts, width, features]."""
        best: tuple[float, float, F32] | None = None
        for ridge in RIDGES:
            found = np.stack([self._delta(sums, ridge) for sums in self.experts])
            left = self._left(found)
            if best is None or left < best[0]:
                best = (left, ridge, found)
        assert best is not None
        least = min(sums.n for sums in self.experts)
        return ExpertFit(layer, best[1], best[0], least), best[2]

    def _delta(self, sums: Regression, ridge: float) -> F32:
        if not sums.fits:  # no token, or nothing lacking
            return np.zeros((self.width, self.n_features), np.float32)
        return np.ascontiguousarray(sums.solve(ridge)[0].T, np.float32)

    def _left(self, deltas: F32) -> float:
        """The share of the error that is left on the held-out windows."""
        before = after = 0.0
        for seen, state in self.held_out:
            lacking = (state - seen.output).astype(np.float64)
            added = np.zeros_like(lacking)
            for expert in range(len(deltas)):
                token, slot = np.nonzero(seen.ids == expert)
                features = seen.features[token, slot] * seen.gates[token, slot][:, None]
                np.add.at(added, token, features @ deltas[expert].T)
            weight = 1.0 / np.maximum(np.square(state, dtype=np.float64).sum(axis=1), 1e-30)
            before += float(weight @ np.square(lacking).sum(axis=1))
            after += float(weight @ np.square(lacking - added).sum(axis=1))
        return after / before if before > 0 else 1.0
