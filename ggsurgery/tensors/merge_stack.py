"""Experts of a stack merged group by group (REAM, arXiv 2604.04356).

The neurons of an expert have no order: the neurons of each further member are first put into the
order of the first one, so that what is averaged does alike things. The order is the
assignment with the largest sum of products between the neurons' weights, each stack scaled to
length 1 (weight matching, Ainsworth et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ArchitectureError
from ..plan.edits import MergeExperts
from .assignment import assign
from .expr import Expr, MergeStack, Neurons, rebuild, walk
from .kernels import Values
from .scales import Get, belongs_to_weight, effective
from .shape import shape_of

Rows = tuple[tuple[int, int], ...]
#: Neurons of the members of each group, in the order of the first one's.
Orders = tuple[tuple[tuple[int, ...], ...], ...]
#: The stacks that hold an expert's neurons, and along which axis.
_STACKS = (
    ("ffn_gate_up_exps.weight", 1),
    ("ffn_gate_exps.weight", 1),
    ("ffn_up_exps.weight", 1),
    ("ffn_down_exps.weight", 0),
)


class Reader(Protocol):
    def values(self, expr: Expr, rows: Rows) -> Values: ...


def merged(edit: MergeExperts, suffix: str, get: Get, first: Expr) -> Expr | None:
    """A tensor of a layer whose experts are merged; None where it leaves.

    Args:
        get: gives the tensors of the layer before.
        first: the tensor, of a stack the parts of each group's first expert.

    Raises:
        ArchitectureError: the layer's experts have no stacks that can be aligned.
    """
    if "_exps." not in suffix or all(len(group) == 1 for group in edit.groups):
        return first
    if belongs_to_weight(get, suffix):
        return None
    found = [(effective(get, name), axis) for name, axis in _STACKS]
    neurons = tuple(Neurons(stack, axis) for stack, axis in found if stack is not None)
    if len(neurons) < 2 or neurons[-1].axis != 0:
        raise ArchitectureError(
            "experts without a down projection cannot be merged",
            tensor=suffix,
            expected="ffn_down_exps.weight, and ffn_up_exps or ffn_gate_up_exps",
        )
    stack = effective(get, suffix)
    assert stack is not None
    down = suffix.startswith("ffn_down")
    axis: int | None = 0 if down or suffix.endswith(".bias") else 1
    if down and suffix.endswith(".bias"):
        axis = None
    return MergeStack(stack, edit.groups, axis, neurons)


def pending(exprs: Sequence[Expr]) -> list[MergeStack]:
    """The merges whose neurons have no order yet."""
    return [e for expr in exprs for e in walk(expr) if isinstance(e, MergeStack) and not e.orders]


def settle(exprs: Sequence[Expr], reader: Reader) -> list[Expr]:
    """The expressions with the neurons of every member in order.

    Raises:
        FormatError: a tensor cannot be decoded.
    """
    known: dict[object, Orders] = {}

    def change(node: Expr) -> Expr:
        if not isinstance(node, MergeStack) or node.orders is not None:
            return node
        key = (node.neurons, node.groups)
        if key not in known:  # the stacks of one layer have one order
            known[key] = tuple(
                tuple(tuple(map(int, o)) for o in _orders(node, [e for e, _ in group], reader))
                for group in node.groups
            )
        return replace(node, orders=known[key])

    return [rebuild(expr, change) for expr in exprs]


def _orders(node: MergeStack, experts: Sequence[int], reader: Reader) -> list[NDArray[np.intp]]:
    if len(experts) == 1:
        return []
    first = _vectors(node, experts[0], reader)
    found = []
    for expert in experts[1:]:
        gain = first @ _vectors(node, expert, reader).T
        found.append(assign(gain.astype(np.float64)))
    return found


def _vectors(node: MergeStack, expert: int, reader: Reader) -> NDArray[np.float32]:
    """The weights of each neuron of an expert, [neurons, weights]."""
    count = shape_of(node.neurons[-1].stack)[0]
    parts = []
    for each in node.neurons:
        width, height = shape_of(each.stack)[:2]
        span = ((expert * height, (expert + 1) * height),)
        matrix = reader.values(each.stack, span).reshape(height, width)
        if each.axis == 0:
            matrix = matrix.T
        part = matrix.reshape(-1, count, matrix.shape[1]).transpose(1, 0, 2).reshape(count, -1)
        parts.append(part / max(float(np.linalg.norm(part)), 1e-30))
    return np.concatenate(parts, axis=1)


def by_expert(expr: MergeStack, rows: Rows) -> list[tuple[int, int, int]]:
    """Rows of the output as (group, first row in it, last row)."""
    shape = shape_of(expr.stack)
    height = shape[1] if len(shape) > 2 else 1
    found = []
    for start, stop in rows:
        for group in range(start // height, -(-stop // height)):
            first = group * height
            found.append((group, max(start, first) - first, min(stop, first + height) - first))
    return found


def source_rows(expr: MergeStack, expert: int, first: int, last: int) -> Rows:
    """The rows of an expert in the stack before."""
    shape = shape_of(expr.stack)
    height = shape[1] if len(shape) > 2 else 1
    return ((expert * height + first, expert * height + last),)


def values(expr: MergeStack, group: int, first: int, last: int, reader: Reader) -> Values:
    """Some rows of one merged expert, flat."""
    assert expr.orders is not None
    width = shape_of(expr.stack)[0]
    total = np.zeros((last - first, width), np.float32)
    for number, (expert, weight) in enumerate(expr.groups[group]):
        order = np.asarray(expr.orders[group][number - 1], np.intp) if number else None
        rows = source_rows(expr, expert, first, last)
        if order is not None and expr.axis == 1:
            picked = _whole(order, shape_of(expr.stack)[1])[first:last]
            start = rows[0][0] - first
            rows = tuple((start + int(r), start + int(r) + 1) for r in picked)
        part = reader.values(expr.stack, rows).reshape(-1, width)
        if order is not None and expr.axis == 0:
            part = part[:, _whole(order, width)]
        total += np.float32(weight) * part
    return total.reshape(-1)


def _whole(order: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """The order along an axis that counts the neurons once, or twice (gate and up in one)."""
    return np.concatenate([order + start for start in range(0, length, len(order))])
