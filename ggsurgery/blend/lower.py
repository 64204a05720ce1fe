"""From a block of a plan to the expression of each of its tensors.

rdsc       θ_l + Σ_k (θ_{l+k} − θ_l)          (LaCo, Yang et al. 2024, Eq. 1)
damped     θ_l + factor · Σ_k (θ_{l+k} − θ_l)
reference  θ_{l+m} for the seven projections, θ_l elsewhere: what LaCo's published code
           computes, since it subtracts the base that it has just updated
mean       Σ θ / n
lerp       (1 − weight) · θ_a + weight · θ_b,   slerp the same along the arc
linear     Σ weight · θ
task-arithmetic, ties, dare: the first parent is the base model
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ArchitectureError, GGSurgeryError, PlanError
from ..expr import Apply, Combine, Expr, Given, reads
from ..plan.types import Blend, Block, BlockRef, Edit, Edited, Take, main_reference, params
from .parts import damps, in_part, is_integer, is_projection, scales_all
from .shape import shape_of

#: Gives the tensor of a layer by its suffix; None or a GGSurgeryError where there is none.
ReadTensor = Callable[[BlockRef, str], Expr | None]

METHODS = (
    "rdsc", "damped", "reference", "mean", "lerp", "slerp", "linear", "task-arithmetic", "ties",
    "dare",
)  # fmt: skip
BLOCK_EDITS = ("scale", "damp", "zero", "replace", "add")


def lower(block: Block, suffix: str, read: ReadTensor) -> Expr:
    """The expression of one tensor of a block.

    Args:
        suffix: the tensor's name without `blk.N.`, one of the main parent.

    Raises:
        ArchitectureError: a parent has no such tensor, or one of another shape.
        PlanError: an unknown method or edit, or parameters that it does not take.
    """
    match block:
        case Take(ref):
            return _read(read, ref, suffix)
        case Blend(parents):
            return _blend(block, [lower(p, suffix, read) for p in parents], suffix, read)
        case Edited(inner, edits):
            expr = lower(inner, suffix, read)
            has = _has(read, main_reference(inner))
            for edit in edits:
                expr = edit_tensor(edit, suffix, expr, has)
            return expr


def combine(method: str, inputs: Sequence[Expr], options: dict[str, Any]) -> Expr:
    """Parents of one tensor joined by one of METHODS.

    Raises:
        PlanError: an unknown method, or missing parameters.
    """
    count = len(inputs)
    match method:
        case "rdsc" | "damped":
            factor = 1.0 if method == "rdsc" else _number(options, "factor", method)
            return _linear(inputs, [1 - factor * (count - 1), *[factor] * (count - 1)])
        case "mean":
            return _linear(inputs, [1 / count] * count)
        case "lerp" | "slerp":
            weight = _number(options, "weight", method)
            if method == "lerp" or weight in (0.0, 1.0):
                return _linear(inputs, [1 - weight, weight])
            return Combine(tuple(inputs), "slerp", params(weight=weight))
        case "linear":
            return _linear(inputs, _weights(options, count))
        case "task-arithmetic":
            scale, weights = float(options.get("scale", 1.0)), _weights(options, count - 1)
            scaled = [scale * w for w in weights]
            return _linear(inputs, [1 - sum(scaled), *scaled])
        case "ties" | "dare":
            weights = _weights(options, count - 1)
            chosen = params(
                weights=tuple(weights),
                scale=float(options.get("scale", 1.0)),
                density=_number(options, "density", method),
                seed=int(options.get("seed", 0)) if method == "dare" else None,
            )
            return Combine(tuple(inputs), method, chosen)
    raise PlanError(f"unknown way to blend: {method!r}; known: {', '.join(METHODS)}")


def edit_tensor(edit: Edit, suffix: str, expr: Expr, has: Callable[[str], bool]) -> Expr:
    """An edit of a block applied to one of its tensors.

    Raises:
        PlanError: an unknown edit.
        ArchitectureError: a layer that cannot be damped.
    """
    options = dict(edit.params)
    if edit.kind == "damp":
        if scales_all(has):
            raise ArchitectureError(
                "a copy of this layer cannot be damped: it scales its whole output",
                tensor="layer_output_scale.weight", hint="Leave --scale out.",
            )  # fmt: skip
        return _scaled(expr, float(options["factor"])) if damps(suffix, has) else expr
    if edit.kind not in BLOCK_EDITS:
        raise PlanError(f"unknown edit {edit.kind!r}; known: {', '.join(BLOCK_EDITS)}")
    if not _concerned(edit, suffix, expr):
        return expr
    match edit.kind:
        case "scale":
            return _scaled(expr, float(options["factor"]))
        case "zero":
            return Apply(expr, "zero")
        case "replace":
            return Given(str(options["key"]), shape_of(expr))
        case _:  # add: what healing found is the difference to the weights as they are
            delta = Given(str(options["key"]), shape_of(expr))
            return Combine((expr, delta), "linear", params(weights=(1.0, 1.0)))


def _blend(block: Blend, inputs: list[Expr], suffix: str, read: ReadTensor) -> Expr:
    options = dict(block.params)
    has = _has(read, main_reference(block))
    if not in_part(suffix, str(options.get("parts", "all")), has) or _indices(inputs[0]):
        return inputs[0]
    if suffix.endswith(".weight") and has(suffix.removesuffix("weight") + "scale"):
        raise ArchitectureError(
            "weights with a separate scale cannot be blended", tensor=suffix,
            hint="Convert the model to a type without such scales (BF16, Q8_0) first.",
        )  # fmt: skip
    if block.method == "reference":
        return inputs[-1] if is_projection(suffix) else inputs[0]
    expr = combine(block.method, inputs, options)
    try:
        shape_of(expr)
    except PlanError as error:
        raise ArchitectureError(str(error)) from error
    return expr


def _linear(inputs: Sequence[Expr], weights: Sequence[float]) -> Expr:
    """A weighted sum without the inputs of weight 0, whose NaN must not spread."""
    used = [(e, float(w)) for e, w in zip(inputs, weights, strict=True) if w != 0]
    if not used:
        return Apply(inputs[0], "zero")
    if len(used) == 1:
        return _scaled(*used[0])
    return Combine(tuple(e for e, _ in used), "linear", params(weights=tuple(w for _, w in used)))


def _scaled(expr: Expr, factor: float) -> Expr:
    return expr if factor == 1 else Apply(expr, "scale", params(factor=factor))


def _concerned(edit: Edit, suffix: str, expr: Expr) -> bool:
    if edit.tensors:
        return suffix in edit.tensors
    return suffix.endswith(".weight") and len(shape_of(expr)) > 1


def _indices(expr: Expr) -> bool:
    return any(is_integer(r.tensor.type) for r in reads(expr))


def _read(read: ReadTensor, ref: BlockRef, suffix: str) -> Expr:
    expr = read(ref, suffix)
    if expr is None:
        raise ArchitectureError(
            "the layers to combine have different tensors", tensor=f"blk.{ref.index}.{suffix}",
            expected="a tensor as in the other parent", found="none",
        )  # fmt: skip
    return expr


def _has(read: ReadTensor, ref: BlockRef) -> Callable[[str], bool]:
    def has(suffix: str) -> bool:
        try:
            return read(ref, suffix) is not None
        except GGSurgeryError:
            return False

    return has


def _number(options: dict[str, Any], name: str, method: str) -> float:
    if name not in options:
        raise PlanError(f"{method} needs the parameter {name!r}")
    return float(options[name])


def _weights(options: dict[str, Any], count: int) -> list[float]:
    weights = [float(w) for w in options.get("weights", [1 / count] * count)]
    if len(weights) != count:
        raise PlanError("not one weight for each parent", expected=count, found=len(weights))
    return weights
