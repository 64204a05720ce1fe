"""What healing fits, read from the graphs of the cut and of the uncut model.

x ─▶ carrier i:  Y = ffn_inp-i     G = ffn_swiglu-i  ─ ffn_down ─▶  M = ffn_out-i
                 └─────────────── M + Y ───────────────▶  wanted: Z = l_out-(i+n)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ArchitectureError, EngineError
from ..measure.variants import Candidates
from ..plan.heal import PROJECTION, Cut
from ..plan.types import Plan
from ..runtime.engine import Engine, Outputs
from ..tensors.expr import Read
from ..tensors.read_rows import RowReader
from ..tensors.scales import effective

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

#: Graph nodes that feed `ffn_down`, by the activation of the architecture.
FEATURES = (
    "ffn_swiglu",
    "ffn_geglu",
    "ffn_gate_par",
    "ffn_reglu",
    "ffn_silu",
    "ffn_gelu",
    "ffn_relu",
    "ffn_sqr(relu)",
)


class Nodes(NamedTuple):
    """One window's nodes, float32 [tokens, d_ff] for g and [tokens, n_embd] for the others."""

    g: F32
    m: F32
    y: F32
    z: F32


def nodes(session: Candidates, plan: Plan, cut: Cut, removed: int) -> Iterator[Nodes]:
    """G, M, Y of the carrier as it is now, Z of the uncut model, window by window.

    Args:
        plan: the model with its first `removed` layers cut and healed already.

    Raises:
        EngineError: the graph does not show them.
        ArchitectureError: the carrier's output is not Y + M.
    """
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
        # the last layer computes only the positions whose logits are wanted
        top = cut.last == len(session.identity.blocks) - 1
        logits: Outputs = "all" if top else "last"
        for index in range(len(session.windows)):
            now.decode(index, logits=logits, copy=False)
            seen = dict(now.engine.observed)
            if uncut is not None:
                uncut.reset()
                uncut.decode(session.windows.inputs[index], logits=logits, copy=False)
                seen |= {k: v for k, v in uncut.observed.items() if k == target}
            g = next((seen[name] for name in features if name in seen), None)
            m, y, z = (seen.get(n) for n in (f"ffn_out-{at}", f"ffn_inp-{at}", target))
            if g is None or m is None or y is None or z is None:
                raise EngineError(
                    "this architecture's graph does not show what healing fits",
                    file=session.path,
                    expected=f"{features[0]}, ffn_inp-{at}, ffn_out-{at}",
                    found=", ".join(sorted(seen)) or "nothing",
                )
            if index == 0:
                _check_sum(session, cut, seen[f"l_out-{at}"], m + y)
            yield Nodes(g, m, y, z)


@contextmanager
def _original(session: Candidates) -> Iterator[Engine]:
    n_ctx = max(64, session.windows.longest)
    with Engine.open(
        session.path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=session.n_threads
    ) as engine:
        yield engine


def check_carrier(session: Candidates, cut: Cut) -> None:
    """Refuse a layer whose projection does not reach the residual as it is.

    Raises:
        ArchitectureError: what stands in the way.
    """
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


def _check_sum(session: Candidates, cut: Cut, out: F32, total: F32) -> None:
    if np.abs(out - total).max() > 1e-2 * np.abs(out).max():
        raise ArchitectureError(
            f"the output of layer {cut.carrier} is not ffn_inp + ffn_out, so its projection "
            "cannot take over",
            file=session.path,
            hint="`delete` without healing.",
        )


def weights(session: Candidates, layer: int) -> F64:
    """A layer's projection as the model uses it, float64 [n_embd, d_ff]."""
    tensors = session.source.header.layer_tensors(layer)
    expr = effective({s: Read(0, t) for s, t in tensors.items()}.get, PROJECTION)
    assert expr is not None  # `check_carrier` has seen it
    width, height = tensors[PROJECTION].shape
    values = RowReader([session.source]).values(expr, ((0, height),))
    return values.reshape(height, width).astype(np.float64)
