"""The layer that makes the attention sink: a first position far larger than all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..runtime.engine import Engine

F64 = NDArray[np.float64]

#: The first position is a sink where its norm is this many times the others' mean …
SINK_RATIO = 10.0
#: … and a layer makes it one when it raises that ratio this many times.
SINK_JUMP = 3.0


def find_sink(norms: F64, first_norms: F64) -> int | None:
    """The layer whose output first has a first position far larger than all others.

    Such a position serves the later layers' attention as a place to look at when there is
    nothing to see; without the layer that makes it they see noise.

    Args:
        norms: mean norm of each layer's output, without the first position.
        first_norms: the same of the first position alone.
    """
    ratio = first_norms / np.maximum(norms, 1e-30)
    before = np.concatenate([[1.0], ratio[:-1]])
    jumps = np.flatnonzero((ratio >= SINK_RATIO) & (ratio >= SINK_JUMP * before))
    return int(jumps[0]) if jumps.size else None


def sink_of(engine: Engine, tokens: NDArray[np.int32]) -> int | None:
    """The sink's layer on one window; None without one, or where the graph does not show it."""
    names = [f"l_out-{layer}" for layer in range(engine.n_layer)]
    engine.observe(names)
    engine.reset()
    engine.decode(tokens, logits="all", copy=False)
    if any(name not in engine.observed for name in names):
        return None
    sizes = np.stack([np.linalg.norm(engine.observed[name], axis=1) for name in names])
    return find_sink(sizes[:, 1:].mean(axis=1).astype(np.float64), sizes[:, 0].astype(np.float64))
