"""The shape of an expression's result, and whether its parts fit together."""

from __future__ import annotations

from math import prod

from ..errors import PlanError
from .expr import Apply, Combine, Effective, Expr, Given, MergeStack, Read, Slice, describe

Shape = tuple[int, ...]


def shape_of(expr: Expr) -> Shape:
    """The shape in ggml's order, row length first.

    Raises:
        PlanError: inputs of different shapes, or a slice outside its input.
    """
    match expr:
        case Read(_, tensor):
            return tensor.shape
        case Given(_, shape):
            return shape
        case Apply(inner):
            return shape_of(inner)
        case Combine(inputs):
            return _common(inputs)
        case Effective(weight):
            return shape_of(weight)
        case MergeStack(stack, groups):
            return (*shape_of(stack)[:-1], len(groups))
        case Slice(inner, axis, ranges):
            return _sliced(shape_of(inner), axis, ranges, expr)


def n_rows(shape: Shape) -> int:
    return prod(shape[1:])


def _common(inputs: tuple[Expr, ...]) -> Shape:
    if not inputs:
        raise PlanError("nothing to combine")
    first = shape_of(inputs[0])
    for other in inputs[1:]:
        if isinstance(other, Given):  # one value a column: repeated over the rows
            continue
        if (found := shape_of(other)) != first:
            raise PlanError(
                "tensors of different shapes cannot be combined",
                tensor=f"{describe(inputs[0])} and {describe(other)}",
                expected=list(first),
                found=list(found),
            )
    return first


def _sliced(shape: Shape, axis: int, ranges: tuple[tuple[int, int], ...], expr: Slice) -> Shape:
    if not 0 <= axis < len(shape):
        raise PlanError("no such axis", tensor=describe(expr), expected=f"below {len(shape)}")
    for start, stop in ranges:
        if not 0 <= start < stop <= shape[axis]:
            raise PlanError(
                "slice outside the tensor",
                tensor=describe(expr),
                expected=f"within 0:{shape[axis]}",
                found=f"{start}:{stop}",
            )
    return (*shape[:axis], sum(b - a for a, b in ranges), *shape[axis + 1 :])
