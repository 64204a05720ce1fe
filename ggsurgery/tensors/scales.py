"""Weights with a separate scale: `X.scale` beside `X.weight` (NVFP4, BitNet, mixed files).

llama.cpp multiplies the product of `X.weight` with the scale: one value a tensor, or one an
expert (`build_lora_mm`, `build_lora_mm_id` in llama-graph.cpp). In a dense feed-forward
network the bias has been added by then and is multiplied too (`build_ffn`). `X.input_scale`
holds how NVFP4 kernels round activations; it is not a factor of the weight, and means nothing
beside a weight that is not the stored one.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ggufio.constants import GGMLQuantizationType
from .expr import Effective, Expr
from .shape import Shape, shape_of

#: Gives a tensor by its name (or suffix); None where there is none.
Get = Callable[[str], Expr | None]

#: Types whose values are useless without a scale beside them, so that a computed tensor,
#: which has none, is never written as one of them.
NEED_SCALE = (int(GGMLQuantizationType.NVFP4),)

_SCALED_BIAS = ("ffn_up", "ffn_gate", "ffn_down")
_ENDS = ("scale", "input_scale")


def fits(weight: Shape, scale: Shape) -> bool:
    """Whether a tensor of this shape is a weight's scale: one value, or one a matrix of a stack.

    gemma4's `ffn_gate_inp.scale`, one value a column, is a parameter of its own.
    """
    return scale == (1,) or (len(weight) == 3 and scale == weight[2:])


def scale_of(get: Get, name: str) -> Expr | None:
    """The scale that a tensor is multiplied by, None where its values count as they are."""
    stem, _, end = name.rpartition(".")
    if (end == "bias" and stem.rpartition(".")[2] not in _SCALED_BIAS) or end not in (
        "weight",
        "bias",
    ):
        return None
    scale = get(f"{stem}.scale")
    weight = get(f"{stem}.weight") if scale is not None else None
    if scale is None or weight is None or not fits(shape_of(weight), shape_of(scale)):
        return None
    return scale


def belongs_to_weight(get: Get, name: str) -> bool:
    """Whether a tensor is the scale, or the input scale, of a weight beside it."""
    stem, _, end = name.rpartition(".")
    if end not in _ENDS:
        return False
    scale, weight = get(name), get(f"{stem}.weight")
    return scale is not None and weight is not None and fits(shape_of(weight), shape_of(scale))


def effective(get: Get, name: str) -> Expr | None:
    """A tensor as the model uses it: times its scale where it has one."""
    expr, scale = get(name), scale_of(get, name)
    return expr if expr is None or scale is None else Effective(expr, scale)
