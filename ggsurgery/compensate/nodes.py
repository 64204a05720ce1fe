"""The nodes of llama.cpp's graph that healing fits, and which layers it can correct.

x ─▶ attention: kqv_out ─ attn_output ─▶ + x = ffn_inp ─▶ features ─ ffn_down ─▶ ffn_out
                                          └───────── ffn_inp + ffn_out = l_out ─────────▶
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import ArchitectureError, EngineError
from ..measure.variants import Candidates
from ..plan.heal import ATTENTION, PROJECTION
from ..plan.types import Block, BlockRef, main_reference
from ..tensors.expr import Expr, Read
from ..tensors.read_rows import RowReader
from ..tensors.scales import effective
from ..tensors.shape import shape_of
from ..tensors.to_expr import Lowered

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
#: Nodes by name without their layer.
Seen = Mapping[str, F32]

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
#: What feeds each tensor, and what its layer gives with it.
INPUTS = {PROJECTION: FEATURES, ATTENTION: ("kqv_out",)}
#: The state that a tensor's layer gives behind it, as far as it is complete there.
OUTPUT = {PROJECTION: "l_out", ATTENTION: "ffn_inp"}

#: Tensors of a layer between a projection and the residual stream.
_IN_THE_WAY = {
    PROJECTION: ("post_ffw_norm.weight", "ffn_down.bias"),
    ATTENTION: ("post_attention_norm.weight",),
}


def features_of(session: Candidates, layer: int, seen: Seen, tensor: str) -> F32:
    """What the tensor multiplies.

    Raises:
        EngineError: the graph does not show it, or not the states around it.
    """
    found = next((seen[name] for name in INPUTS[tensor] if name in seen), None)
    if found is None or "ffn_inp" not in seen or OUTPUT[tensor] not in seen:
        raise EngineError(
            "this architecture's graph does not show what healing fits",
            file=session.path,
            tensor=f"blk.{layer}.*",
            expected=", ".join((INPUTS[tensor][0], "ffn_inp", OUTPUT[tensor])),
            found=", ".join(sorted(seen)) or "nothing",
        )
    return found


def check_sum(session: Candidates, layer: int, seen: Seen) -> None:
    """Refuse a layer whose output is not ffn_inp + ffn_out.

    Raises:
        ArchitectureError: it scales the sum, or adds something else.
    """
    total = seen["ffn_inp"] + seen["ffn_out"]
    if np.abs(seen["l_out"] - total).max() > 1e-2 * np.abs(seen["l_out"]).max():
        raise ArchitectureError(
            f"the output of layer {layer} is not ffn_inp + ffn_out, so its projection cannot "
            "take over",
            file=session.path,
            hint="`method` scale works on any layer.",
        )


def check_layer(session: Candidates, block: Block, tensor: str) -> None:
    """Refuse a layer whose projection does not reach the residual as it is.

    Raises:
        ArchitectureError: names what is between them.
    """
    layer = main_reference(block).index
    tensors = session.source.header.layer_tensors(layer)
    bad = [s for s in _IN_THE_WAY[tensor] if s in tensors]
    if tensor not in tensors or bad:
        experts = "ffn_down_exps.weight" in tensors
        raise ArchitectureError(
            f"layer {layer} cannot take over for others",
            file=session.path,
            tensor=f"blk.{layer}.{bad[0] if bad else tensor}",
            expected=f"a plain {tensor.removesuffix('.weight')} whose output goes straight to the "
            "residual",
            found=bad[0] if bad else "experts" if experts else "no such tensor",
            hint="Choose a cut behind a dense layer, or `method` scale, which works on any layer.",
        )


def _expression(session: Candidates, block: Block, tensor: str) -> Expr:
    tensors = session.source.header.layer_tensors

    def read(ref: BlockRef, suffix: str) -> Expr | None:
        found = tensors(ref.index).get(suffix)
        return None if found is None else Read(ref.source, found)

    expr = effective(Lowered(block, read).get, tensor)
    assert expr is not None  # `check_layer` has seen it
    return expr


def n_features(session: Candidates, block: Block, tensor: str) -> int:
    """How many inputs a projection has."""
    return shape_of(_expression(session, block, tensor))[0]


def weights(session: Candidates, block: Block, tensor: str) -> F64:
    """A layer's projection as the model uses it, float64 [n_embd, n_features]."""
    expr = _expression(session, block, tensor)
    width, height = shape_of(expr)[:2]
    values = RowReader([session.source], session.given).values(expr, ((0, height),))
    return values.reshape(height, width).astype(np.float64)
