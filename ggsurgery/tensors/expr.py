"""How the values of one output tensor come about: a small tree over input tensors.

`layout` builds the trees, `execute` evaluates them row block by row block. A tree is a
value: it prints in a dry run and hashes into a cache key. All arithmetic is in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..ggufio.types import TensorInfo
from ..plan.edits import Params


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor of source number `source`, decoded to float32."""

    source: int
    tensor: TensorInfo


@dataclass(frozen=True, slots=True)
class Combine:
    """`method` over inputs of one shape, such as `linear` with `weights`, or `slerp`."""

    inputs: tuple[Expr, ...]
    method: str
    params: Params = ()


@dataclass(frozen=True, slots=True)
class Apply:
    """`method` on one input: `scale` by a factor, `mask` below a threshold, `zero` …"""

    input: Expr
    method: str
    params: Params = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """Some rows or columns of the input: per-layer slabs of gemma3n's embeddings.

    `axis` counts in ggml's order (0 = along a row); `ranges` are half-open.
    """

    input: Expr
    axis: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Given:
    """Values that a method computed (healing): a float32 array by its name in a sidecar."""

    key: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Effective:
    """A weight times the scale that its file stores beside it (`X.weight`, `X.scale`).

    The scale holds one value, or one for each matrix of a stack of experts.
    """

    weight: Expr
    scale: Expr


@dataclass(frozen=True, slots=True)
class Neurons:
    """A stack of experts, and along which axis it counts the neurons of each."""

    stack: Expr
    axis: int


@dataclass(frozen=True, slots=True)
class MergeStack:
    """A stack of experts with one for each group: the weighted mean of its members.

    Args:
        groups: (expert, weight) pairs.
        axis: along which axis the stack counts the neurons of an expert; None: it does not.
        neurons: the stacks whose values decide which neuron of a member joins which of the
            first; one or two neurons along their axis for each along the last stack's.
        orders: for each group and each of its members after the first, the neurons in the order
            of the first's; None until `merge_stack.settle`.
    """

    stack: Expr
    groups: tuple[tuple[tuple[int, float], ...], ...]
    axis: int | None
    neurons: tuple[Neurons, ...]
    orders: tuple[tuple[tuple[int, ...], ...], ...] | None = None


Expr = Read | Combine | Apply | Slice | Given | Effective | MergeStack


def walk(expr: Expr) -> Iterator[Expr]:
    """The nodes of a tree, each before its inputs."""
    yield expr
    match expr:
        case Combine(inputs):
            for each in inputs:
                yield from walk(each)
        case Apply(inner) | Slice(inner):
            yield from walk(inner)
        case Effective(weight, scale):
            yield from walk(weight)
            yield from walk(scale)
        case MergeStack(stack, _, _, neurons):
            yield from walk(stack)
            for aligned in neurons:
                yield from walk(aligned.stack)


def rebuild(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The tree with every node changed, inputs first."""
    match expr:
        case Combine(inputs):
            expr = replace(expr, inputs=tuple(rebuild(e, change) for e in inputs))
        case Apply(inner) | Slice(inner):
            expr = replace(expr, input=rebuild(inner, change))
        case Effective(weight, scale):
            expr = Effective(rebuild(weight, change), rebuild(scale, change))
        case MergeStack(stack, _, _, neurons):
            neurons = tuple(replace(n, stack=rebuild(n.stack, change)) for n in neurons)
            expr = replace(expr, stack=rebuild(stack, change), neurons=neurons)
    return change(expr)


def reads(expr: Expr) -> tuple[Read, ...]:
    """The input tensors of a tree, in order of appearance."""
    return tuple(e for e in walk(expr) if isinstance(e, Read))


def describe(expr: Expr) -> str:
    """One readable line: `0.5*blk.20.x + 0.5*blk.22.x`."""
    match expr:
        case Read(source, tensor):
            return tensor.name if source == 0 else f"{source}:{tensor.name}"
        case Combine(inputs, method, options):
            return f"{method}({', '.join(describe(e) for e in inputs)}{_options(options)})"
        case Apply(inner, method, options):
            return f"{method}({describe(inner)}{_options(options)})"
        case Slice(inner, axis, ranges):
            return f"{describe(inner)}[axis {axis}: {', '.join(f'{a}:{b}' for a, b in ranges)}]"
        case Given(key):
            return f"given {key}"
        case Effective(weight, scale):
            return f"{describe(scale)}*{describe(weight)}"
        case MergeStack(stack, groups):
            return f"{len(groups)} groups of experts of {describe(stack)}"


def _options(options: Params) -> str:
    def short(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return "".join(f", {name}={short(value)}" for name, value in options)
