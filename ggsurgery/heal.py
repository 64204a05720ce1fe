"""Heal a cut without training: refit the projection in front of it by least squares.

Layers i+1 … i+n go. Layer i then has to say what they would have said:

    x ─▶ layer i:  Y = ffn_inp-i     G = ffn_swiglu-i  ─ ffn_down ─▶  M = ffn_out-i
                   └─────────────── M + Y ───────────────▶  wanted: Z = l_out-(i+n)

    tw      T = argmin Σ_t w_t ‖M_t T + Y_t − Z_t‖² + λ‖T − I‖²,   W' = Tᵀ W
            (ReplaceMe, Shopkhoev et al. 2025, least squares)
    refit   Δ = argmin Σ_t w_t ‖G_t Δᵀ + M_t + Y_t − Z_t‖² + λ‖Δ‖²,  W' = W + Δ

Both are one ridge regression of the residual Z − Y − M, on the features M or G. w_t is
1/‖Z_t‖², so that no position drowns the others; the first position of a window, where
attention puts what it does not need, counts `first` times as much. λ is relative to the mean
diagonal of the Gram matrix. Unweighted fits can explode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidates, Windows
from .errors import ArchitectureError, EngineError, PlanError
from .heal_sidecar import Sidecar, key_of
from .plan.recipe import Recipe, Step, step
from .plan.text import format_layers
from .plan.types import Plan
from .runtime.engine import Engine

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Method = Literal["tw", "refit"]
Progress = Callable[[int, int], object]

PROJECTION = "ffn_down.weight"
#: Graph nodes that feed `ffn_down`, by the activation of the architecture.
FEATURES = ("ffn_swiglu", "ffn_geglu", "ffn_gate_par", "ffn_reglu", "ffn_silu", "ffn_gelu",
            "ffn_relu", "ffn_sqr(relu)")  # fmt: skip
RIDGE: dict[Method, float] = {"tw": 1e-2, "refit": 1e-2}
FIRST = 30.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Layers first … last go; layer first − 1 takes over."""

    first: int
    last: int

    @property
    def carrier(self) -> int:
        return self.first - 1


@dataclass(frozen=True, slots=True)
class Fit:
    """How well one cut could be mended.

    `before` and `after` are Σ w‖residual‖² / Σ w‖Z − Y‖² without and with the correction, on
    the tokens that it was fitted on (a share of what the removed layers and the carrier's
    own feed-forward did).
    """

    cut: Cut
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
    method: Method

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "recipe": self.recipe.to_json(),
            "sidecar": self.sidecar.digest,
            "cuts": [
                {
                    "removed": [fit.cut.first, fit.cut.last],
                    "carrier": fit.cut.carrier,
                    "tokens": fit.tokens,
                    "residual_before": fit.before,
                    "residual_after": fit.after,
                }
                for fit in self.fits
            ],
        }


def cuts_of(layers: Sequence[int], n_layers: int) -> tuple[Cut, ...]:
    """Runs of neighbouring layers.

    Raises:
        PlanError: layer 0 goes (nothing in front of it can take over), or one does not exist.

    Example:
        >>> cuts_of([12, 13, 20], 30)
        (Cut(first=12, last=13), Cut(first=20, last=20))
    """
    cuts: list[Cut] = []
    for layer in sorted(set(layers)):
        if not 0 <= layer < n_layers:
            raise PlanError(f"layer {layer} does not exist", expected=f"0 to {n_layers - 1}")
        if layer == 0:
            raise PlanError(
                "a cut of layer 0 cannot be healed: no layer in front of it takes over",
                hint="Leave layer 0; `ggsurgery delete` cuts it without healing.",
            )
        if cuts and cuts[-1].last == layer - 1:
            cuts[-1] = replace(cuts[-1], last=layer)
        else:
            cuts.append(Cut(layer, layer))
    return tuple(cuts)


def heal(
    path: str | Path,
    layers: Sequence[int],
    text: str,
    *,
    method: Method = "refit",
    n_tokens: int = 32768,
    n_ctx: int = 512,
    ridge: float | None = None,
    first: float = FIRST,
    n_threads: int | None = None,
    allow_unknown_arch: bool = False,
    progress: Progress | None = None,
) -> Healed:
    """Remove layers of a model and fit what is left; nothing is written.

    Args:
        layers: those to remove, as numbered in the file.
        text: calibration text; not the one that the result is reported on.
        n_tokens: how many of its tokens at most.
        ridge: λ; None takes the method's default.
        progress: called with (windows done, windows in all).

    Returns:
        The recipe, and the arrays for `prepare(recipe, [path], given=healed.sidecar)`.

    Raises:
        PlanError: layer 0 or a layer that does not exist.
        ArchitectureError: a carrier whose output is not ffn_inp + ffn_out, or without a
            plain `ffn_down`.
    """
    with Engine.open(path, n_ctx=64, n_threads=n_threads) as engine:
        windows = Windows.of_text(engine, text, n_ctx, max(1, n_tokens // n_ctx))
    arrays: dict[str, F32] = {}
    with Candidates(
        path, windows, cache_bytes=0, n_threads=n_threads, given=arrays,
        allow_unknown_arch=allow_unknown_arch,
    ) as session:  # fmt: skip
        cuts = cuts_of(layers, len(session.identity.blocks))
        plan, fits, steps = session.identity, [], []
        removed = 0
        for number, cut in enumerate(cuts):
            _check_carrier(session, cut)
            tick = _stepped(progress, number, len(cuts))
            fit, delta = _fit(
                session, plan, cut, removed, method, RIDGE[method] if ridge is None else ridge,
                first, tick,
            )  # fmt: skip
            key = key_of(cut.carrier)
            arrays[key] = delta
            place = cut.carrier - removed
            span = range(cut.first - removed, cut.last - removed + 1)
            steps += [
                step("delete", layer=format_layers(span)),
                step("add_weights", layer=place, tensor=PROJECTION, key=key),
            ]
            for one in steps[-2:]:
                plan = one.apply(plan)
            removed += cut.last - cut.first + 1
            fits.append(fit)
    sidecar = Sidecar(arrays)
    steps = [_sealed(one, sidecar) for one in steps]
    whole = Recipe(tuple(steps))
    return Healed(whole, whole.apply(Plan.identity(len(session.identity.blocks))), sidecar,
                  tuple(fits), method)  # fmt: skip


def _sealed(one: Step, sidecar: Sidecar) -> Step:
    """The step with the checksum of its array, which makes the plan's digest tell them apart."""
    if one.operation != "add_weights":
        return one
    arguments = dict(one.arguments)
    return step("add_weights", **arguments, sha256=sidecar.checksum(arguments["key"]))


def _stepped(progress: Progress | None, number: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, n: progress(number * n + done, total * n)


def _check_carrier(session: Candidates, cut: Cut) -> None:
    tensors = session.source.header.layer_tensors(cut.carrier)
    bad = [s for s in ("post_ffw_norm.weight", "ffn_down.bias") if s in tensors]
    if PROJECTION not in tensors or bad:
        raise ArchitectureError(
            f"layer {cut.carrier} cannot take over for the layers behind it",
            file=session.path,
            tensor=f"blk.{cut.carrier}.{bad[0] if bad else PROJECTION}",
            expected="a plain ffn_down whose output goes straight to the residual",
            found=bad[0] if bad else "no such tensor",
            hint="Choose a cut behind a dense layer, or `delete` without healing.",
        )


def _fit(
    session: Candidates, plan: Plan, cut: Cut, removed: int, method: Method, ridge: float,
    first: float, progress: Progress | None,
) -> tuple[Fit, F32]:  # fmt: skip
    """The correction of one carrier, float32 in numpy's shape [n_embd, d_ff]."""
    sums: _Sums | None = None
    count = len(session.windows)
    for number, (g, m, y, z) in enumerate(_nodes(session, plan, cut, removed)):
        if number == 0:
            sums = _Sums(g.shape[1] if method == "refit" else m.shape[1], m.shape[1])
        assert sums is not None
        sums.add(g if method == "refit" else m, z - y - m, z, y, first)
        if progress is not None:
            progress(number + 1, count)
    assert sums is not None
    d = sums.solve(ridge)
    fit = Fit(cut, sums.n, sums.before / sums.scale, sums.residual(d) / sums.scale)
    if method == "refit":
        return fit, np.ascontiguousarray(d.T, np.float32)
    return fit, np.ascontiguousarray(d.T @ _weights(session, cut.carrier), np.float32)


class _Sums:
    """Gram matrix and right side of the weighted regression, in float64."""

    def __init__(self, n_features: int, width: int) -> None:
        self.gram = np.zeros((n_features, n_features))
        self.right = np.zeros((n_features, width))
        self.before = self.scale = 0.0
        self.n = 0

    def add(self, f: F32, r: F32, z: F32, y: F32, first: float) -> None:
        w = 1.0 / np.maximum(np.square(z, dtype=np.float64).sum(axis=1), 1e-30)
        w[0] *= first
        root = np.sqrt(w).astype(np.float32)[:, None]
        f, r, done = f * root, r * root, (z - y) * root
        self.gram += f.T @ f
        self.right += f.T @ r
        self.before += float(np.square(r, dtype=np.float64).sum())
        self.scale += float(np.square(done, dtype=np.float64).sum())
        self.n += len(f)

    def solve(self, ridge: float) -> F64:
        """[n_features, width]"""
        loaded = self.gram + ridge * np.trace(self.gram) / len(self.gram) * np.eye(len(self.gram))
        solution: F64 = np.linalg.solve(loaded, self.right)
        return solution

    def residual(self, d: F64) -> float:
        """Σ w‖r − f d‖² from the sums alone."""
        cross = float((d * self.right).sum())
        return max(0.0, self.before - 2 * cross + float((d * (self.gram @ d)).sum()))


def _nodes(
    session: Candidates, plan: Plan, cut: Cut, removed: int
) -> Iterator[tuple[F32, F32, F32, F32]]:
    """G, M, Y of the carrier as it is now, Z of the uncut model, window by window."""
    at, target = cut.carrier - removed, f"l_out-{cut.last}"
    with ExitStack() as stack:
        now = stack.enter_context(session.open(plan))
        features = [f"{name}-{at}" for name in FEATURES]
        names = [*features, f"ffn_inp-{at}", f"ffn_out-{at}", f"l_out-{at}"]
        uncut = None
        if removed:  # layers in front are already mended: the target needs the original
            uncut = stack.enter_context(_original(session))
            uncut.observe([target])
        now.engine.observe(names if removed else [*names, target])
        for index in range(len(session.windows)):
            now.decode(index, logits="all", copy=False)
            seen = dict(now.engine.observed)
            if uncut is not None:
                uncut.reset()
                uncut.decode(session.windows.inputs[index], logits="all", copy=False)
                seen |= {k: v for k, v in uncut.observed.items() if k == target}
            g = next((seen[name] for name in features if name in seen), None)
            m, y, z = (seen.get(n) for n in (f"ffn_out-{at}", f"ffn_inp-{at}", target))
            if g is None or m is None or y is None or z is None:
                raise EngineError(
                    "this architecture's graph does not show what healing fits",
                    file=session.path, expected=f"{features[0]}, ffn_inp-{at}, ffn_out-{at}",
                    found=", ".join(sorted(seen)) or "nothing",
                )  # fmt: skip
            if index == 0:
                _check_sum(session, cut, seen[f"l_out-{at}"], m + y)
            yield g, m, y, z


@contextmanager
def _original(session: Candidates) -> Iterator[Engine]:
    n_ctx = max(64, session.windows.longest)
    with Engine.open(
        session.path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=session.n_threads
    ) as engine:
        yield engine


def _check_sum(session: Candidates, cut: Cut, out: F32, total: F32) -> None:
    if np.abs(out - total).max() > 1e-2 * np.abs(out).max():
        raise ArchitectureError(
            f"the output of layer {cut.carrier} is not ffn_inp + ffn_out, so its projection "
            "cannot take over",
            file=session.path, hint="`delete` without healing.",
        )  # fmt: skip


def _weights(session: Candidates, layer: int) -> F64:
    """The carrier's projection as numbers, float64 [n_embd, d_ff]."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    tensor = session.source.header.layer_tensors(layer)[PROJECTION]
    raw = np.frombuffer(session.source.data(tensor), np.uint8)
    kind = GGMLQuantizationType(tensor.type)
    rows = raw.reshape(tensor.shape[1], -1)
    if kind == GGMLQuantizationType.F32:
        return rows.view(np.float32).astype(np.float64)
    if kind == GGMLQuantizationType.F16:
        return rows.view(np.float16).astype(np.float64)
    return dequantize(rows, kind).astype(np.float64)
