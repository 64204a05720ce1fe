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

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from ..errors import ArchitectureError, PlanError
from ..plan.edits import (
    Add,
    BlockEdit,
    Damp,
    KeepChannels,
    KeepExperts,
    KeepGroups,
    MergeExperts,
    Scale,
    params,
)
from ..plan.types import Blend, Block, BlockRef, Edited, Take, references
from .expr import Apply, Combine, Expr, Given, Slice, reads
from .merge_stack import merged
from .parts import (
    channel_axis,
    counts_experts,
    damps,
    group_axis,
    in_part,
    is_integer,
    is_projection,
    scales_all,
)
from .scales import Get, belongs_to_weight, effective, scale_of
from .shape import shape_of

#: Gives the tensor of a layer by its suffix; None where there is none.
ReadTensor = Callable[[BlockRef, str], Expr | None]

METHODS = (
    "rdsc",
    "damped",
    "reference",
    "mean",
    "lerp",
    "slerp",
    "linear",
    "task-arithmetic",
    "ties",
    "dare",
)


class Lowered:
    """A block as tensors: `get` gives the expression of each, as it will be stored.

    Weights with a separate scale keep it if they are copied or damped; a computed weight is
    multiplied by its scale, which is then removed.
    """

    def __init__(self, block: Block, read: ReadTensor) -> None:
        self._block, self._read = block, read
        self._known: dict[str, Expr | None] = {}
        self._parents: tuple[Lowered, ...] = ()
        match block:
            case Blend(parents):
                self._parents = tuple(Lowered(p, read) for p in parents)
            case Edited(inner, edits):
                before = Edited(inner, edits[:-1]) if len(edits) > 1 else inner
                self._parents = (Lowered(before, read),) if edits else (Lowered(inner, read),)

    def get(self, suffix: str) -> Expr | None:
        """The expression of one tensor; None where the block has no such tensor.

        Args:
            suffix: the tensor's name without `blk.N.`

        Raises:
            ArchitectureError: a parent lacks the tensor, or has it in another shape.
            PlanError: an unknown method, or parameters that it does not take.
        """
        if suffix not in self._known:
            self._known[suffix] = self._find(suffix)
        return self._known[suffix]

    def _find(self, suffix: str) -> Expr | None:
        match self._block:
            case Take(ref):
                return self._read(ref, suffix)
            case Edited(_, edits):
                inner = self._parents[0].get
                return edit_tensor(edits[-1], suffix, inner) if edits else inner(suffix)
            case Blend(parents, method, options):
                chosen, first = dict(options), self._parents[0].get
                if not in_part(suffix, str(chosen.get("parts", "all")), _has(first)):
                    return first(suffix)
                names = [f"blk.{references(p)[0].index}.{suffix}" for p in parents]
                return join([p.get for p in self._parents], suffix, names, method, chosen)


def lower(block: Block, suffix: str, read: ReadTensor) -> Expr | None:
    """The expression of one tensor of a block; see `Lowered.get`."""
    return Lowered(block, read).get(suffix)


def join(
    parents: Sequence[Get], name: str, names: Sequence[str], method: str, options: dict[str, Any]
) -> Expr | None:
    """One tensor of several parents by one of METHODS; None where the result has none.

    A bias that only some parents have is zero in the others, a scale that only some have is
    one; any other tensor must be in all of them.

    Args:
        parents: give each parent's tensors.
        name: the tensor, as `parents` call it.
        names: the same for messages, one a parent.

    Raises:
        ArchitectureError: a parent lacks the tensor, or has it in another shape.
    """
    stored = [get(name) for get in parents]
    if any(e is not None and _indices(e) for e in stored):
        _refuse_missing(stored, names)
        return stored[0]
    if (taken := _taken(method, len(parents), options)) is not None:
        if not name.endswith((".bias", "scale")):
            _refuse_missing(stored, names)
        return stored[taken]
    if any(belongs_to_weight(get, name) for get in parents):
        return None
    inputs = [effective(get, name) for get in parents]
    if not name.endswith(".bias"):
        _refuse_missing(inputs, names)
    if method == "reference":
        stem = name.rpartition(".")[0]
        scaled = any(get(f"{stem}.scale") is not None for get in parents)
        place = -1 if is_projection(name) else 0
        return (inputs if scaled else stored)[place]
    present = next((e for e in inputs if e is not None), None)
    if present is None:
        return None
    expr = combine(method, [Apply(present, "zero") if e is None else e for e in inputs], options)
    try:
        shape_of(expr)
    except PlanError as error:
        raise ArchitectureError(str(error)) from error
    return expr


def _taken(method: str, count: int, options: dict[str, Any]) -> int | None:
    """The parent that a blend equals, such as the second of a lerp with weight 1."""
    if method == "reference":
        return None
    parents: list[Expr] = [Given(str(n), (1,)) for n in range(count)]
    expr = combine(method, parents, options)
    return next((n for n, e in enumerate(parents) if e is expr), None)


def _refuse_missing(tensors: Sequence[Expr | None], names: Sequence[str]) -> None:
    for tensor, name in zip(tensors, names, strict=True):
        if tensor is None and any(t is not None for t in tensors):
            raise ArchitectureError(
                "the parents to combine have different tensors",
                tensor=name,
                expected="a tensor as in the other parent",
                found="none",
            )


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


def edit_tensor(edit: BlockEdit, suffix: str, get: Get) -> Expr | None:
    """An edit of a block applied to one of its tensors.

    Args:
        get: gives the tensors of the block before the edit.

    Raises:
        ArchitectureError: a layer that cannot be damped.
    """
    expr = get(suffix)
    if isinstance(edit, Damp):
        return _damped(suffix, get, edit.factor)
    if expr is None:
        return None
    weight = f"{suffix.rpartition('.')[0]}.weight"
    if isinstance(edit, KeepExperts):
        return _experts(expr, edit.experts) if counts_experts(suffix) else expr
    if isinstance(edit, MergeExperts):
        first = _experts(expr, edit.experts) if counts_experts(suffix) else expr
        return merged(edit, suffix, get, first)
    if isinstance(edit, KeepChannels):
        axis = channel_axis(suffix)
        return expr if axis is None else _channels(expr, axis, edit.channels, get)
    if isinstance(edit, KeepGroups):
        axis = group_axis(suffix)
        if axis is None:
            return expr
        width = shape_of(expr)[axis] // edit.of
        return _kept(expr, axis, [g * width + n for g in edit.groups for n in range(width)])
    with_weight = suffix != weight and _concerned(edit, weight, get(weight))
    match edit:
        case Scale(_, factor):
            if suffix.endswith(".scale") and belongs_to_weight(get, suffix):
                return _scaled(expr, factor) if with_weight else expr
            # of a weight with a separate scale that one alone is changed
            if not _concerned(edit, suffix, expr) or scale_of(get, suffix) is not None:
                return expr
            return _scaled(expr, factor)
        case Add(_, key):
            if with_weight:
                # the new weight is no longer multiplied by the scale, so nothing beside it may be
                return None if belongs_to_weight(get, suffix) else effective(get, suffix)
            if not _concerned(edit, suffix, expr):
                return expr
            # what healing found is the difference to the weights as they are used
            whole = effective(get, suffix)
            assert whole is not None
            delta = Given(key, shape_of(expr))
            return Combine((whole, delta), "linear", params(weights=(1.0, 1.0)))


def _damped(suffix: str, get: Get, factor: float) -> Expr | None:
    """A tensor of a damped layer; of a weight and its scale only the scale is changed."""
    has, expr = _has(get), get(suffix)
    if scales_all(has):
        raise ArchitectureError(
            "a copy of this layer cannot be damped: it scales its whole output",
            tensor="layer_output_scale.weight",
            hint="Leave out `scale`.",
        )
    untouched = suffix.endswith(".input_scale") or scale_of(get, suffix) is not None
    if expr is None or untouched or not damps(suffix, has):
        return expr
    return _scaled(expr, factor)


def _experts(expr: Expr, experts: Sequence[int]) -> Expr:
    """The parts of these experts; a scale that all experts share stays."""
    shape = shape_of(expr)
    if shape == (1,):
        return expr
    return Slice(expr, len(shape) - 1, runs(experts))


def _channels(expr: Expr, axis: int, channels: Sequence[int], get: Get) -> Expr:
    """The parts of these inner channels; gate and up in one tensor hold each channel twice."""
    down = get("ffn_down.weight")
    size = shape_of(expr)[axis]
    count = size if down is None else shape_of(down)[0]
    if size % count:
        raise ArchitectureError(
            "the tensor does not have whole parts of one value a channel",
            expected=f"a multiple of {count} along axis {axis}",
            found=list(shape_of(expr)),
        )
    return _kept(expr, axis, [start + c for start in range(0, size, count) for c in channels])


def _kept(expr: Expr, axis: int, kept: Sequence[int]) -> Expr:
    """The numbers along an axis that stay."""
    if isinstance(expr, Slice) and expr.axis == axis:  # one slice, so that bytes can be copied
        numbers = [n for a, b in expr.ranges for n in range(a, b)]
        return replace(expr, ranges=runs([numbers[k] for k in kept]))
    return Slice(expr, axis, runs(kept))


def runs(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as half-open ranges, in their order.

    Example:
        >>> runs([0, 1, 2, 5, 4])
        ((0, 3), (5, 6), (4, 5))
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1]:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return tuple((a, b) for a, b in found)


def _linear(inputs: Sequence[Expr], weights: Sequence[float]) -> Expr:
    """A weighted sum without the inputs of weight 0, whose NaN must not spread, and the zeros."""
    used = [
        (e, float(w))
        for e, w in zip(inputs, weights, strict=True)
        if w != 0 and not (isinstance(e, Apply) and e.method == "zero")
    ]
    if not used:
        return Apply(inputs[0], "zero")
    if len(used) == 1:
        return _scaled(*used[0])
    return Combine(tuple(e for e, _ in used), "linear", params(weights=tuple(w for _, w in used)))


def _scaled(expr: Expr, factor: float) -> Expr:
    return expr if factor == 1 else Apply(expr, "scale", params(factor=factor))


def check_names(block: Block, suffixes: Collection[str]) -> None:
    """Refuse edits of tensors that the layer does not have.

    Raises:
        PlanError: naming the tensor and those that there are.
    """
    if not isinstance(block, Edited):
        return
    for edit in block.edits:
        for name in edit.tensors if isinstance(edit, Scale | Add) else ():
            if not any(_names(name, suffix) for suffix in suffixes):
                known = sorted({s.removesuffix(".weight") for s in suffixes})
                raise PlanError(
                    f"the layer has no tensor {name} to {edit.kind}", expected=", ".join(known)
                )
    check_names(block.block, suffixes)


def _names(name: str, suffix: str) -> bool:
    """Whether `attn_q` or `attn_q.weight` names the tensor of that suffix."""
    return suffix in (name, f"{name}.weight", f"{name}.bias")


def _concerned(edit: Scale | Add, suffix: str, expr: Expr | None) -> bool:
    return expr is not None and any(_names(name, suffix) for name in edit.tensors)


def _indices(expr: Expr) -> bool:
    return any(is_integer(r.tensor.type) for r in reads(expr))


def _has(get: Get) -> Callable[[str], bool]:
    return lambda suffix: get(suffix) is not None


def _number(options: dict[str, Any], name: str, method: str) -> float:
    if name not in options:
        raise PlanError(f"{method} needs the parameter {name!r}")
    return float(options[name])


def _weights(options: dict[str, Any], count: int) -> list[float]:
    weights = [float(w) for w in options.get("weights", [1 / count] * count)]
    if len(weights) != count:
        raise PlanError("not one weight for each parent", expected=count, found=len(weights))
    return weights
