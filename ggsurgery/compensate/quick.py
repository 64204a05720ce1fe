"""A quick refit, for the choice among many cuts: the seams only, one ridge.

Each seam's `ffn_down` is fitted towards the uncut model's state: by itself, as `refit` does it,
or through a map of n_embd features (`tw`) where the text is too short for its columns, or their
sums too large to keep for many places. The sums of several places come from one pass of the
uncut model and one of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..measure.variants import Candidates
from ..plan.heal import PROJECTION, corrected, places
from ..plan.types import Block, Plan, main_reference
from ..runtime.engine import Outputs
from .checks import TOKENS_PER_FEATURE
from .nodes import FEATURES, check_layer, n_features, weights
from .regression import Regression, Rows
from .settings import RIDGE, Settings

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
FIRST = Settings().first

#: Bytes of the sums of one place, above which `tw` is fitted.
PLACE_BYTES = 64 << 20
#: Bytes of the sums that one pass over the windows gathers.
PASS_BYTES = 768 << 20


class Sums(Regression):
    """The sums of one place.

    Attributes:
        through_map: whether a map of the layer's output is fitted, and not the projection itself.
    """

    def __init__(self, n_features: int, width: int, *, through_map: bool) -> None:
        super().__init__(n_features, width, FIRST)
        self.through_map = through_map


def places_a_pass(session: Candidates, blocks: Sequence[Block]) -> int:
    """For how many of some layers the sums are gathered in one pass over the windows."""
    width = int(session.source.header.get("{arch}.embedding_length") or 1)
    largest = 1
    for block in blocks:
        features = _features(session, block) or width
        largest = max(largest, 8 * features * (features + width))
    return max(1, PASS_BYTES // largest)


def _features(session: Candidates, block: Block) -> int | None:
    """The columns of a layer's projection if that is fitted itself, None for the map."""
    count = n_features(session, block, PROJECTION)
    width = int(session.source.header.get("{arch}.embedding_length") or 1)
    tokens = sum(len(window) for window in session.windows.inputs)
    fits = tokens >= TOKENS_PER_FEATURE * count and 8 * count * (count + width) <= PLACE_BYTES
    return count if fits else None


def quickly_healed(session: Candidates, plan: Plan, given: dict[str, Any]) -> Plan:
    """A plan refitted at its seams, one after the other; one without seams comes back as it is.

    Args:
        session: the model, with the windows to fit on and `given` as its arrays.
        given: gets the corrections in place of those of an earlier plan.

    Raises:
        ArchitectureError, EngineError: a layer at a seam cannot be corrected.
    """
    given.clear()
    now = replace(plan, tail=())
    for place in places(now, len(session.identity.blocks)):
        if not place.seam:
            continue
        block = now.blocks[place.position]
        check_layer(session, block, PROJECTION)
        sums = statistics(session, now, {place.position: place.last})
        key = f"quick.{plan.digest[:16]}.{place.position}"
        found = correction(session, block, sums[place.position])
        given[key] = np.ascontiguousarray(found, np.float32)
        blocks = list(now.blocks)
        blocks[place.position] = corrected(block, PROJECTION, key)
        now = replace(now, blocks=tuple(blocks))
    return now


def correction(session: Candidates, block: Block, sums: Sums) -> F64:
    """What is added to a layer's projection.

    Raises:
        EngineError: the states give nothing to fit.
    """
    if not sums.fits:
        raise EngineError(
            f"layer {main_reference(block).index} cannot take over: the states around it are "
            "zero or not numbers",
            file=session.path,
        )
    d, _ = sums.solve(RIDGE)
    change: F64 = d.T @ weights(session, block, PROJECTION) if sums.through_map else d.T
    return change


def statistics(session: Candidates, base: Plan, wanted: Mapping[int, int]) -> dict[int, Sums]:
    """Sums over the windows for layers of a plan.

    Args:
        wanted: by the layer's place, the uncut layer whose output it should give.

    Raises:
        EngineError: the graph does not show the states.
    """
    n, places = len(session.identity.blocks), list(wanted)
    targets = {p: f"l_out-{layer}" for p, layer in wanted.items()}
    counts = {p: _features(session, base.blocks[p]) for p in places}
    names = ("ffn_inp", "ffn_out", *(FEATURES if any(counts.values()) else ()))
    own = [f"{name}-{p}" for p in places for name in names]
    same = base == session.identity
    # the last layer computes only the tokens whose logits are asked for
    outputs: Outputs = "all" if n - 1 in wanted.values() else "last"
    sums: dict[int, Sums] = {}
    with ExitStack() as stack:
        uncut = stack.enter_context(session.open(session.identity)).engine
        uncut.observe([*targets.values(), *own] if same else list(targets.values()))
        now = uncut if same else stack.enter_context(session.open(base)).engine
        if not same:
            now.observe(own)
        for tokens in session.windows.inputs:
            uncut.reset()
            uncut.decode(tokens, logits=outputs, copy=False)
            states = uncut.observed
            if not same:
                now.reset()
                now.decode(tokens, logits="last", copy=False)
            seen = now.observed
            for place, target in targets.items():
                rows, through_map = _rows(session, place, seen, states.get(target), counts[place])
                if place not in sums:
                    shape = rows.features.shape[1], rows.wanted.shape[1]
                    sums[place] = Sums(*shape, through_map=through_map)
                sums[place].add(rows)
    return sums


def _rows(
    session: Candidates, place: int, seen: Mapping[str, F32], wanted: F32 | None, count: int | None
) -> tuple[Rows, bool]:
    """What one window gives a fit, and whether that is of a map.

    Raises:
        EngineError: the graph does not show the states.
    """
    y, m = seen.get(f"ffn_inp-{place}"), seen.get(f"ffn_out-{place}")
    if y is None or m is None or wanted is None:
        raise EngineError(
            "this architecture's graph does not show what healing fits",
            file=session.path,
            expected=f"l_out, ffn_inp-{place}, ffn_out-{place}",
            hint="Choose cuts by what they cost bare.",
        )
    features = None
    if count is not None:
        shown = (seen.get(f"{name}-{place}") for name in FEATURES)
        features = next((f for f in shown if f is not None and f.shape[1] == count), None)
    did = wanted - y
    through_map = features is None
    return Rows(m if features is None else features, did - m, wanted, did), through_map
