"""A quick refit, for the choice among many cuts: the seams only, `tw`, one ridge.

Each seam's `ffn_down` takes up a map of n_embd features towards the uncut model's state. The
sums of several places come from one pass of the uncut model and one of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from .nodes import check_layer, weights
from .regression import Regression, Rows
from .settings import RIDGE, Settings

F64 = NDArray[np.float64]
FIRST = Settings().first


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


def correction(session: Candidates, block: Block, sums: Regression) -> F64:
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
    found: F64 = d.T @ weights(session, block, PROJECTION)
    return found


def statistics(session: Candidates, base: Plan, wanted: Mapping[int, int]) -> dict[int, Regression]:
    """Sums over the windows for layers of a plan.

    Args:
        wanted: by the layer's place, the uncut layer whose output it should give.

    Raises:
        EngineError: the graph does not show the states.
    """
    n, places = len(session.identity.blocks), list(wanted)
    targets = {p: f"l_out-{layer}" for p, layer in wanted.items()}
    own = [f"{name}-{p}" for p in places for name in ("ffn_inp", "ffn_out")]
    same = base == session.identity
    # the last layer computes only the tokens whose logits are asked for
    outputs: Outputs = "all" if n - 1 in wanted.values() else "last"
    sums: dict[int, Regression] = {}
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
            for place in places:
                names = (f"ffn_inp-{place}", f"ffn_out-{place}")
                missing = [x for x in names if x not in seen]
                missing += [targets[place]] if targets[place] not in states else []
                if missing:
                    raise EngineError(
                        "this architecture's graph does not show what healing fits",
                        file=session.path,
                        expected=missing[0],
                        hint="Choose cuts by what they cost bare.",
                    )
                z, y, m = states[targets[place]], seen[names[0]], seen[names[1]]
                if place not in sums:
                    sums[place] = Regression(m.shape[1], z.shape[1], FIRST)
                sums[place].add(Rows(m, z - y - m, z, z - y))
    return sums
