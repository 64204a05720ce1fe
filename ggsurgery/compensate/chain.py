"""The model healed so far beside the uncut one, both advanced layer by layer.

    uncut   tokens ─▶ … ─▶ state behind the layers that a place replaces = what is wanted
    now     tokens ─▶ … ─▶ input of the layer that is fitted ─▶ its features

Each step feeds the kept states to a model of the next few layers alone, and keeps what comes
out: no layer is computed from the tokens again, and memory holds the statistics of one fit.
Where states cannot be fed (see `Candidates`), whole models are run from the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, GGSurgeryError
from ..measure.variants import Candidates
from ..measure.variants.candidate import Candidate
from ..measure.variants.losses import window_nll
from ..measure.variants.session import SAME, takes_states
from ..plan.heal import PROJECTION, Place, corrected, key_of
from ..plan.types import Block, Plan, main_reference
from ..runtime.engine import Outputs
from . import nodes
from .regression import Regression, Rows
from .settings import RIDGE, RIDGES, Settings
from .states import States

F32 = NDArray[np.float32]
#: Nodes of one window by name and layer of the whole plan.
Shown = dict[tuple[str, int], F32]
#: (name, layer) of the nodes to watch.
Wanted = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Unseen:
    """Residuals on `tokens` tokens that a fit has not seen, as shares like those of `Fit`."""

    tokens: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Fit:
    """How well one tensor could be corrected.

    `before` and `after` are Σ w‖residual‖² without and with the correction as shares of what the
    layers in its place did in the uncut model, on the tokens that it was fitted on; `unseen` the
    same on the held-out windows, None without any.
    """

    place: Place
    number: int
    tensor: str
    ridge: float
    tokens: int
    before: float
    after: float
    unseen: Unseen | None = None

    @property
    def key(self) -> str:
        return key_of(self.number, self.tensor)

    @property
    def overfits(self) -> bool:
        """Whether the correction makes tokens that it was not fitted on worse."""
        return self.unseen is not None and not self.unseen.after < self.unseen.before


@dataclass(frozen=True, slots=True)
class Position:
    """How far the chain is: `now` is the input of layer `begin` of the plan, `uncut` that of
    layer `reached` of the uncut model; None means the tokens."""

    plan: Plan
    begin: int = 0
    reached: int = 0
    now: States | None = None
    uncut: States | None = None


class Chain:
    """Fits places of a plan one after the other.

    Args:
        session: the model, its windows, and the arrays (`given`) that fits are added to.
        plan: the cut without corrections.
        numbers: how the recipe numbers the layers of the plan.
        n_fit: windows that are fitted on; the others are for choosing.
        tick: called for each window that went through.
    """

    def __init__(
        self,
        session: Candidates,
        plan: Plan,
        numbers: Sequence[int],
        n_fit: int,
        settings: Settings,
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        self.session, self.numbers, self.n_fit = session, numbers, n_fit
        self.settings, self._tick = settings, tick
        self.at = self.origin = Position(plan)
        kinds = {session.kind_of(main_reference(b).index) for b in session.identity.blocks}
        self._feeds = takes_states(session.source.header) and len(kinds) == 1

    @property
    def choice(self) -> range:
        """The windows that no fit sees."""
        return range(self.n_fit, len(self.session.windows))

    def start(self, place: Place) -> None:
        """Run the layers that plan and uncut model have in common, once."""
        count = place.begin
        if self._feeds and len(self.session.identity.blocks) > 1:
            # without such layers the first window shows whether states can be fed behind layer 0
            behind, n = (count, len(self.session.windows)) if count else (1, 1)
            kept, probe = self._prefix(behind, n)
            self._feeds = self._same(kept, behind, probe)
            if self._feeds and count:
                self.at = replace(self.at, begin=count, reached=count, now=kept, uncut=kept)
        self.origin = self.at

    def _prefix(self, count: int, n: int) -> tuple[States, F32]:
        """Inputs of layer `count` in `n` windows, and the first one's last row behind it."""
        kept, probe = self._states(), np.empty(0, np.float32)
        wanted = [("l_out", count - 1), ("l_out", count)]
        identity = self.session.identity
        with self._running(identity, 0, min(count + 1, len(identity.blocks)), None, wanted) as run:
            for index in range(n):
                seen = run(index)
                kept.put(index, self._shown(seen, count - 1))
                if not index:
                    probe = self._shown(seen, count)[-1]
                self._tick()
        return kept, probe

    def _shown(self, seen: Shown, layer: int) -> F32:
        if ("l_out", layer) not in seen:
            raise EngineError(
                "this architecture's graph does not name its layers' outputs",
                file=self.session.path,
                expected=f"l_out-{layer}",
                found=", ".join(sorted(f"{n}-{i}" for n, i in seen)) or "nothing",
            )
        return seen["l_out", layer]

    def _same(self, kept: States, count: int, probe: F32) -> bool:
        """Whether a layer that is fed its input gives what it gives in the whole model."""
        identity = self.session.identity
        try:
            with self._running(identity, count, count + 1, kept, [("l_out", count)]) as run:
                again = run(0)["l_out", count][-1]
        except (GGSurgeryError, KeyError):
            return False
        return bool(np.abs(again - probe).max() <= SAME * max(1e-30, float(np.abs(probe).max())))

    def fit(self, place: Place, tensor: str = PROJECTION, ridge: float | None = None) -> Fit:
        """Correct a tensor of a place's last layer, on the states of the model healed so far.

        Args:
            ridge: None chooses it on the held-out windows, as far as there are any.

        Raises:
            EngineError: the states around the place give nothing to fit.
            ArchitectureError: the layer cannot be corrected.
        """
        session, block = self.session, self.at.plan.blocks[place.position]
        nodes.check_layer(session, block, tensor)
        tw = self.settings.method == "tw"
        sums: Regression | None = None
        kept: list[Rows] = []
        for index, (seen, target) in enumerate(self._around(place, tensor)):
            features = nodes.features_of(session, place.position, seen, tensor)
            if tensor == PROJECTION:
                if not index:
                    nodes.check_sum(session, place.position, seen)
                did = target - seen["ffn_inp"]
                rows = Rows(seen["ffn_out"] if tw else features, did - seen["ffn_out"], target, did)
            else:
                residual = target - seen["ffn_inp"]
                rows = Rows(features, residual, target, target)
            if sums is None:
                sums = Regression(rows.features.shape[1], target.shape[1], self.settings.first)
            if index < self.n_fit:
                sums.add(rows)
            else:
                kept.append(rows)
            self._tick()
        assert sums is not None
        if not sums.fits:
            raise EngineError(
                f"layer {main_reference(block).index} cannot take over: the states around it are "
                "zero or not numbers",
                file=session.path,
                hint="Cut without healing, or cut other layers.",
            )
        asked = ridge or self.settings.ridge
        chosen = asked or (sums.best_ridge(kept, RIDGES) if kept else RIDGE)
        d, after = sums.solve(chosen)
        unseen = None
        if kept and (held := sums.held_out(kept, d)).scale > 0:
            unseen = Unseen(held.n, held.before / held.scale, held.after / held.scale)
        delta = d.T @ nodes.weights(session, block, tensor) if tw else d.T
        number = self.numbers[place.position]
        fit = Fit(
            place,
            number,
            tensor,
            chosen,
            sums.n,
            sums.before / sums.scale,
            after / sums.scale,
            unseen,
        )
        self._put(place.position, corrected(block, tensor, fit.key), fit.key, delta)
        return fit

    def scale(self, place: Place, so_far: float) -> float:
        """By how much the state behind a place is too short: mean ‖wanted‖ / ‖now‖.

        Args:
            so_far: the factor of the places in front, which the plan divides by.
        """
        ratios: list[float] = []
        for index, (seen, target) in enumerate(self._around(place, PROJECTION)):
            if index < self.n_fit:
                here = np.linalg.norm(self._shown_now(seen, place.position), axis=1)
                ratios.extend(np.linalg.norm(target, axis=1) / np.maximum(here, 1e-30) / so_far)
            self._tick()
        return float(np.mean(ratios))

    def replan(self, plan: Plan) -> None:
        """Go on with a plan that differs behind the chain's position only."""
        self.at = replace(self.at, plan=plan)

    def _shown_now(self, seen: nodes.Seen, layer: int) -> F32:
        return self._shown({("l_out", layer): seen["l_out"]} if "l_out" in seen else {}, layer)

    def _put(self, position: int, block: Block, key: str, delta: NDArray[np.float64]) -> None:
        plan = self.at.plan
        blocks = (*plan.blocks[:position], block, *plan.blocks[position + 1 :])
        self.session.given[key] = np.ascontiguousarray(delta, np.float32)
        self.at = replace(self.at, plan=replace(plan, blocks=blocks))

    def _around(self, place: Place, tensor: str) -> Iterator[tuple[dict[str, F32], F32]]:
        """The nodes of a place's last layer as it is now, and the state wanted behind a tensor,
        window by window; the chain is advanced to that layer when all have passed."""
        at, layer = self.at, place.position
        names = (*nodes.INPUTS[tensor], "ffn_inp", "ffn_out", "l_out")
        watched = [(name, layer) for name in names]
        advances = self._feeds and layer > at.begin
        new_now = self._states() if advances else None
        if advances:
            watched.append(("l_out", layer - 1))
        passed = self._feeds and at.reached > place.last  # an earlier fit of this place
        target = (nodes.OUTPUT[tensor], place.last)
        assert not passed or tensor == PROJECTION
        new_uncut = self._states() if self._feeds and not passed else None
        with ExitStack() as stack:
            now = stack.enter_context(self._running(at.plan, at.begin, layer + 1, at.now, watched))
            if not passed:
                identity, top = self.session.identity, ("l_out", place.last)
                uncut = stack.enter_context(
                    self._running(identity, at.reached, place.last + 1, at.uncut, [target, top])
                )
            for index in range(len(self.session.windows)):
                seen = now(index)
                if new_now is not None:
                    new_now.put(index, self._shown(seen, layer - 1))
                if passed:
                    assert at.uncut is not None
                    wanted = at.uncut[index]
                else:
                    shown = uncut(index)
                    state = self._shown(shown, place.last)
                    if new_uncut is not None:
                        new_uncut.put(index, state)
                    wanted = shown.get(target, state)
                yield {name: rows for (name, i), rows in seen.items() if i == layer}, wanted
        if new_now is not None:
            self.at = replace(self.at, begin=layer, now=new_now)
        if new_uncut is not None:
            self.at = replace(self.at, reached=place.last + 1, uncut=new_uncut)

    @contextmanager
    def _running(
        self, plan: Plan, begin: int, stop: int, fed: States | None, watched: Wanted
    ) -> Iterator[Callable[[int], Shown]]:
        """Layers begin … stop−1 of a plan, fed with states or (None, from 0 on) with tokens.

        Yields:
            A function that gives the watched nodes of a window.
        """
        windows = self.session.windows.inputs
        if fed is not None:
            blocks, logits = plan.blocks[begin:stop], "all"
        else:
            # a model's last layer computes only the tokens whose logits are asked for
            more = stop < len(plan.blocks)
            begin, logits = 0, "last" if more else "all"
            blocks = plan.blocks[: stop + 1] if self._feeds and more else plan.blocks
        with self.session.open_blocks(blocks, plan, head=fed is None) as engine:
            names = {f"{name}-{layer - begin}": (name, layer) for name, layer in watched}
            engine.observe(names)

            def run(index: int) -> Shown:
                engine.reset()
                outputs: Outputs = "all" if logits == "all" else "last"
                if fed is not None:
                    engine.decode_embeddings(fed[index], logits=outputs, copy=False)
                else:
                    engine.decode(windows[index], logits=outputs, copy=False)
                return {names[name]: rows for name, rows in engine.observed.items()}

            yield run

    def _states(self) -> States:
        width = int(self.session.source.header.get("{arch}.embedding_length") or 0)
        return States([len(w) for w in self.session.windows.inputs], width)

    def loss(self, at: Position | None = None, plan: Plan | None = None) -> float:
        """Mean negative log-likelihood of the held-out windows, nats a token.

        Args:
            at: where to begin; None takes the chain's own position.
            plan: the model; None takes the position's own.
        """
        at = at or self.at
        plan = plan or at.plan
        with self.session.open_blocks(plan.blocks[at.begin :], plan) as engine:
            candidate = Candidate(engine, self.session.windows, at.now, at.begin, "suffix")
            values = [window_nll(candidate, index) for index in self.choice]
        return float(np.mean(values))
