"""The operations that compute new layers: each takes a plan and returns a new one.

Nothing is computed here; a new layer is a `Blend` or an `Edited` block that describes it. Layers
are numbered as in the given plan, as in `ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import fsum
from typing import Literal

from ..errors import PlanError
from . import ops
from .edits import BlendShell, BlockEdit, Damp, Mask, Params, Scale, params
from .text import format_layers
from .types import Blend, Block, BlockRef, Edited, Plan, Take

MERGES = ("rdsc", "reference", "mean", "damped")
INTERPOLATIONS = ("lerp", "slerp")
PARTS = ("all", "attn", "ffn")
MODEL_METHODS = ("linear", "slerp", "task-arithmetic", "ties", "dare")
#: Methods that add differences to a base model, which is the first source then.
BASED = ("task-arithmetic", "ties", "dare")
MAX_MODELS = 256
#: Arithmetic on weights is in float32.
FLOAT32_MAX = 3.4028234663852886e38
SCOPES = ("global", "tensor", "row")
#: Names of tensors (`attn_q`, or `attn_q.bias` alone), and the factor on them.
Scales = Sequence[tuple[tuple[str, ...], float]]
SCORES = ("magnitude", "wanda")


def merge(
    plan: Plan,
    layers: Sequence[int],
    method: str = "rdsc",
    factor: float | None = None,
    parts: str = "all",
) -> Plan:
    """Collapse neighbouring layers into the first of them; the others leave.

    Raises:
        PlanError: fewer than two layers, not neighbours, or an unknown method.
    """
    ops.check_layers(plan, layers)
    _one_of("method", method, MERGES)
    _one_of("parts", parts, PARTS)
    if len(layers) < 2 or list(layers) != list(range(layers[0], layers[0] + len(layers))):
        raise PlanError(
            "a merge takes neighbouring layers in their order",
            expected="such as 12-14",
            found=format_layers(layers),
        )
    if (factor is not None) != (method == "damped"):
        raise PlanError("a factor belongs to the method damped, which needs one")
    options = params(
        factor=None if factor is None else _finite("factor", factor),
        parts=None if parts == "all" else parts,
    )
    first, last = layers[0], layers[-1]
    merged = Blend(plan.blocks[first : last + 1], method, options)
    return replace(plan, blocks=(*plan.blocks[:first], merged, *plan.blocks[last + 1 :]))


def interpolate(
    plan: Plan,
    layers: Sequence[int],
    weight: float = 0.5,
    method: str = "lerp",
    at: int | None = None,
) -> Plan:
    """Insert a layer between two: (1 − weight) of the first, weight of the second.

    Args:
        at: the number of the new layer; by default right after the first parent.

    Raises:
        PlanError: a layer or place does not exist, or the weight is outside 0 … 1.
    """
    first, second = layers
    ops.check_layers(plan, (first, second))
    _one_of("method", method, INTERPOLATIONS)
    if not 0 <= weight <= 1:
        raise PlanError("weight out of range", expected="0 to 1", found=weight)
    parents = (plan.blocks[first], plan.blocks[second])
    block = Blend(parents, method, params(weight=float(weight)))
    return ops.insert(plan, (block,), first + 1 if at is None else at)


def bridge(
    plan: Plan, layer: int, at: int, scale: float | None = None, scale_tensors: Scales = ()
) -> Plan:
    """Insert a copy of a layer elsewhere; `scale` damps what the copy adds.

    Args:
        scale_tensors: tensors of the copy that are multiplied by a factor.

    Raises:
        PlanError: the layer or the place does not exist.
    """
    ops.check_layers(plan, (layer,))
    return ops.insert(plan, (scaled_copy(plan.blocks[layer], scale, scale_tensors),), at)


def duplicate(
    plan: Plan,
    layer: Sequence[int],
    to: int | None = None,
    times: int = 1,
    scale: float | None = None,
    scale_tensors: Scales = (),
) -> Plan:
    """`ops.duplicate` whose copies add only `scale` times as much to the residual stream.

    Args:
        scale_tensors: tensors of the copies that are multiplied by a factor.

    Raises:
        PlanError: as `ops.duplicate`.
    """
    made = ops.duplicate(plan, layer, to, times)
    if scale is None and not scale_tensors:
        return made
    start = max(layer) + 1 if to is None else to
    stop = start + len(layer) * times
    copies = tuple(scaled_copy(b, scale, scale_tensors) for b in made.blocks[start:stop])
    return replace(made, blocks=made.blocks[:start] + copies + made.blocks[stop:])


def scaled_copy(block: Block, scale: float | None, scale_tensors: Scales) -> Block:
    """The block with its output projections damped and tensors scaled, itself where nothing is."""
    edits: list[BlockEdit] = []
    if scale is not None and scale != 1:
        edits.append(Damp(_finite("scale", scale)))
    for names, factor in scale_tensors:
        edits.append(Scale(names, _finite("scale_tensors", factor)))
    return Edited(block, tuple(edits)) if edits else block


def blend(
    plan: Plan,
    models: int,
    method: str,
    weights: Sequence[float] | None = None,
    density: float | None = None,
    scale: float | None = None,
    seed: int | None = None,
    layers: Sequence[int] | None = None,
    normalize: bool | None = None,
) -> Plan:
    """Blend whole models of one shape, layer by layer.

    The sources are the models; for a method of `BASED` the base comes first and the models
    behind it. Where `layers` names some, only those are blended, and everything else
    comes from the first model.

    Args:
        models: number of sources, including the base.
        weights: one per model (the base has none); for slerp only the second model's.
        normalize: whether the weights of `linear` are divided by their sum (as by default in
            mergekit), so that 1,1 is the mean.

    Raises:
        PlanError: the method does not take these models or parameters, or the plan has been
            changed before.
    """
    _one_of("method", method, MODEL_METHODS)
    based = method in BASED
    count = models - based
    if method == "slerp" and count != 2:
        raise PlanError("slerp blends two models", expected=2, found=count)
    if count < (1 if based else 2):
        raise PlanError("too few models to blend", expected="two or more", found=count)
    if count > MAX_MODELS:
        raise PlanError("too many models to blend", expected=f"at most {MAX_MODELS}", found=count)
    if plan != Plan.identity(plan.n_layers, len(plan.tail)):
        raise PlanError("a blend of models comes before all other operations")
    chosen = _blend_params(method, count, weights, density, scale, seed, normalize)
    sources, first = tuple(range(models)), int(based)
    picked = range(plan.n_layers) if layers is None else layers
    if layers is not None:
        ops.check_layers(plan, layers)

    def block(index: int) -> Block:
        if index not in picked:
            return Take(BlockRef(first, index))
        return Blend(tuple(Take(BlockRef(s, index)) for s in sources), method, chosen)

    stack = tuple(block(i) for i in range(plan.n_layers))
    cut = len(plan.blocks)
    made = replace(plan, blocks=stack[:cut], tail=stack[cut:], n_sources=models)
    if layers is not None:
        return replace(made, shell=first)
    return replace(made, edits=(*plan.edits, BlendShell(method, sources, chosen)))


def _blend_params(
    method: str,
    count: int,
    weights: Sequence[float] | None,
    density: float | None,
    scale: float | None,
    seed: int | None,
    normalize: bool | None,
) -> Params:
    if (density is not None) != (method in ("ties", "dare")):
        raise PlanError("a density belongs to ties and dare, which need one")
    if density is not None and not 0 < density <= 1:
        raise PlanError("density out of range", expected="above 0 up to 1", found=density)
    if scale is not None and method not in BASED:
        raise PlanError(f"a scale belongs to {', '.join(BASED)}")
    if seed is not None and method != "dare":
        raise PlanError("a seed belongs to dare")
    if normalize is not None and method != "linear":
        raise PlanError("normalize belongs to linear")
    if method == "slerp":
        given = [0.5] if weights is None else [float(w) for w in weights]
        if len(given) != 1 or not 0 <= given[0] <= 1:
            raise PlanError("slerp takes one weight, that of the second model, from 0 to 1")
        return params(weight=given[0])
    each = [1 / count] * count if weights is None else [float(w) for w in weights]
    if len(each) != count:
        raise PlanError("not one weight for each model", expected=count, found=len(each))
    for weight in each:
        _finite("a weight", weight)
    if method == "linear" and normalize is not False:
        each = _normalized(each)
    return params(
        weights=tuple(each),
        density=density,
        scale=None if scale is None else _finite("scale", scale),
        seed=(seed or 0) if method == "dare" else None,
    )


def _normalized(weights: Sequence[float]) -> list[float]:
    total = fsum(weights)
    if abs(total) < 1e-8 * max(map(abs, weights)) or total == 0:
        raise PlanError(
            "the weights add up to 0, so they cannot be normalized",
            found=", ".join(f"{w:g}" for w in weights),
            hint="Use them as they are with `normalize: false`.",
        )
    return [w / total for w in weights]


def prune(
    plan: Plan,
    sparsity: float | None = None,
    scope: str = "global",
    pattern: str | None = None,
    score: str = "magnitude",
    imatrix: str | None = None,
    imatrix_of: str | None = None,
    largest: bool = False,
    only: str | None = None,
) -> Plan:
    """Set weights to zero: a share of all, of each tensor or of each row, or N of every M.

    With the scope `global` one threshold over all weights chosen is found when the file is
    written (`execute.settle`).

    Raises:
        PlanError: parameters that do not go together.
    """
    _one_of("scope", scope, SCOPES)
    _one_of("score", score, SCORES)
    if (score == "wanda") != (imatrix is not None):
        raise PlanError("the score wanda needs an imatrix, and only it takes one")
    if imatrix_of not in (None, "this"):
        raise PlanError(
            f"the imatrix must be of the file itself, not of {imatrix_of!r}",
            expected="this",
            hint="Let its entries follow the layers first: ggsurgery imatrix remap.",
        )
    n, m = (None, None) if pattern is None else parse_pattern(pattern)
    if (pattern is None) == (sparsity is None):
        raise PlanError("either a sparsity or a pattern N:M is needed")
    if pattern is not None and scope != "global":
        raise PlanError("a scope belongs to a sparsity; a pattern N:M holds in every row")
    if sparsity is not None and not 0 <= sparsity <= 1:
        raise PlanError("sparsity out of range", expected="0 to 1", found=sparsity)
    own: Literal["this"] | None = None if imatrix_of is None else "this"
    mask = Mask(scope, score, sparsity, n, m, imatrix, own, largest or None, only)
    return replace(plan, edits=(*plan.edits, mask))


def parse_pattern(text: str) -> tuple[int, int]:
    """N and M of `2:4`: of every M neighbours in a row N stay.

    Raises:
        PlanError: it is not such a pattern.
    """
    n, _, m = text.partition(":")
    if not (n.isdigit() and m.isdigit() and 0 < int(n) < int(m) <= 1024):
        raise PlanError("not an N:M pattern", expected="such as 2:4", found=repr(text))
    return int(n), int(m)


def _one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise PlanError(f"unknown {what} {value!r}", expected=", ".join(known))


def _finite(what: str, value: float) -> float:
    if not abs(value) <= FLOAT32_MAX:
        raise PlanError(
            f"{what} out of range", expected=f"a number within ±{FLOAT32_MAX:.4g}", found=value
        )
    return float(value)
