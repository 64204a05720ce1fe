"""Edits over the whole model: masks from `prune`, and the shell of a cross-model blend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import ArchitectureError, PlanError
from ..expr import Apply, Combine, Expr, Given, Read, reads
from ..ggufio.types import Header
from ..plan.types import Edit, params
from .lower import combine
from .models import check_alike
from .norms import IMATRIX, slab_count
from .parts import is_integer

MODEL_EDITS = ("mask", "blend_shell")


def edit_model(
    edits: Iterable[Edit],
    name: str,
    shape: tuple[int, ...],
    expr: Expr,
    headers: Sequence[Header] = (),
) -> Expr:
    """One output tensor after the edits of a plan; `expr` itself where none concerns it.

    Args:
        name: the tensor's name in the output.
        expr: how it comes about before the edits.
        headers: the sources, for a blend of what stands outside the layers.

    Raises:
        PlanError: an unknown edit, or one that has to look at all weights first.
        ArchitectureError: another source has no such tensor, or one of another shape.
    """
    for edit in edits:
        options = dict(edit.params)
        match edit.kind:
            case "mask":
                if prunable(name, shape, options.get("only")):
                    expr = _mask(name, expr, options)
            case "blend_shell":
                if not name.startswith("blk."):
                    expr = _shell(name, shape, expr, options, headers)
            case _:
                raise PlanError(
                    f"unknown edit of a model: {edit.kind!r}; known: {', '.join(MODEL_EDITS)}"
                )
    return expr


def prunable(name: str, shape: tuple[int, ...], only: str | None) -> bool:
    """Whether `prune` chooses a tensor: the matrices of the layers, or what `only` matches.

    Raises:
        PlanError: `only` is no regular expression.
    """
    if only is None:
        router = "ffn_gate_inp" in name
        return name.startswith("blk.") and name.endswith(".weight") and len(shape) > 1 and not router  # noqa: E501  # fmt: skip
    try:
        return re.search(only, name) is not None
    except re.error as error:
        raise PlanError(f"no regular expression: {only!r} ({error})") from None


def order(name: str) -> tuple[int, str]:
    """The place of a tensor among all: what stands outside the layers, then layer by layer."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (int(match[1]) if match else -1), name


def score_of(expr: Expr, options: dict[str, Any]) -> Expr | None:
    """What decides over the weights: None for their magnitude, else Wanda's score."""
    if options.get("score", "magnitude") == "magnitude":
        return None
    source = reads(expr)[0].tensor
    width = source.shape[0]
    key = f"{IMATRIX}{options['imatrix']}|{source.name}"
    return Combine((expr, Given(key, (width, slab_count(source.shape)))), "score")


def _mask(name: str, expr: Expr, options: dict[str, Any]) -> Expr:
    if any(is_integer(r.tensor.type) for r in reads(expr)):
        return expr
    scope, largest = options.get("scope", "global"), options.get("largest") or None
    if "m" in options:
        method, chosen = "mask_pattern", params(n=options["n"], m=options["m"], largest=largest)
    elif scope == "row":
        method, chosen = "mask_rows", params(sparsity=options["sparsity"], largest=largest)
    elif scope == "tensor":
        method, chosen = "mask", params(sparsity=options["sparsity"], largest=largest)
    elif "threshold" in options:
        method, chosen = "mask", _global(name, options, largest)
    else:
        raise PlanError(
            "one threshold over all weights has to be found first",
            hint="Use the command `ggsurgery prune`, or scope: tensor or row in the recipe.",
        )
    score = score_of(expr, options)
    if score is None:
        return Apply(expr, method, chosen)
    return Combine((expr, score), method, chosen)


def _global(name: str, options: dict[str, Any], largest: bool | None) -> Any:
    """The global threshold; weights equal to it fall in the tensors up to `cut_tensor`."""
    cut = None
    if "cut_tensor" in options:
        here, last = order(name), order(options["cut_tensor"])
        cut = 0 if here > last else int(options["cut"]) if here == last else None
    return params(threshold=float(options["threshold"]), largest=largest, cut=cut)


def _shell(
    name: str,
    shape: tuple[int, ...],
    expr: Expr,
    options: dict[str, Any],
    headers: Sequence[Header],
) -> Expr:
    """Embeddings, final norm and output blended like the layers."""
    inputs: list[Expr] = []
    check_alike([headers[n] for n in options["sources"]])
    check_alike([headers[n] for n in options["sources"]])
    for number in options["sources"]:
        tensor = headers[number].by_name.get(name)
        if tensor is None or tensor.shape != shape:
            raise ArchitectureError(
                "the models to blend differ", file=headers[number].path, tensor=name,
                expected=list(shape), found="none" if tensor is None else list(tensor.shape),
            )  # fmt: skip
        if is_integer(tensor.type):
            return expr
        inputs.append(Read(number, tensor))
    return combine(str(options["method"]), inputs, options)
