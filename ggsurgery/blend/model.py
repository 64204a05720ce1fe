"""Edits over the whole model: masks from `prune`, and the shell of a cross-model blend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArchitectureError, PlanError
from ..expr import Apply, Combine, Expr, Given, Read, reads
from ..ggufio.types import Header, TensorInfo
from ..plan.types import Edit, params
from .lower import combine
from .norms import IMATRIX, input_norms, slab_count
from .parts import is_integer
from .together import MASK_ALL

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
        PlanError: an unknown edit, or a pattern that the rows cannot be cut into.
        FormatError: the imatrix of a score does not know the tensor.
        ArchitectureError: another source has no such tensor, or one of another shape.
    """
    for number, edit in enumerate(edits):
        options = dict(edit.params)
        match edit.kind:
            case "mask":
                if prunable(name, shape, options.get("only")):
                    expr = _mask(name, shape, expr, options, number)
            case "blend_shell":
                if not name.startswith("blk."):
                    expr = _shell(name, shape, expr, options, headers)
            case _:
                raise PlanError(
                    f"unknown edit of a model: {edit.kind!r}; known: {', '.join(MODEL_EDITS)}"
                )
    return expr


def check_masks(edits: Iterable[Edit], tensors: Sequence[TensorInfo], path: Path) -> None:
    """Refuse a mask that chooses no tensor.

    Raises:
        PlanError: naming the expression that matches none.
    """
    for edit in edits:
        only = dict(edit.params).get("only")
        if edit.kind == "mask" and not any(
            prunable(t.name, t.shape, only) and not is_integer(t.type) for t in tensors
        ):
            raise PlanError(
                "no tensor to prune", file=path, found=None if only is None else f"only {only}",
                hint="`ggsurgery inspect --tensors` lists the names.",
            )  # fmt: skip


def prunable(name: str, shape: tuple[int, ...], only: str | None) -> bool:
    """Whether `prune` chooses a tensor: the matrices of the layers, or what `only` matches.

    Raises:
        PlanError: `only` is no regular expression.
    """
    if only is None:
        router = "ffn_gate_inp" in name
        return (
            name.startswith("blk.") and name.endswith(".weight") and len(shape) > 1 and not router
        )
    try:
        return re.search(only, name) is not None
    except re.error as error:
        raise PlanError(f"no regular expression: {only!r} ({error})") from None


def _score(expr: Expr, options: dict[str, Any]) -> Expr | None:
    """What decides over the weights: None for their magnitude, else Wanda's score."""
    if options.get("score", "magnitude") == "magnitude":
        return None
    source = reads(expr)[0].tensor
    width, slabs = source.shape[0], slab_count(source.shape)
    key = f"{options['imatrix']}|{source.name}"
    input_norms(key, width, slabs)  # says now what would be missing later
    return Combine((expr, Given(f"{IMATRIX}{key}", (width, slabs))), "score")


def _mask(
    name: str, shape: tuple[int, ...], expr: Expr, options: dict[str, Any], number: int
) -> Expr:
    if any(is_integer(r.tensor.type) for r in reads(expr)):
        return expr
    largest, sparsity = options.get("largest") or None, options.get("sparsity")
    if "m" in options:
        n, m = options["n"], options["m"]
        if shape[0] % m:
            raise PlanError(
                f"rows of {shape[0]} weights cannot be cut into groups of {m}", tensor=name
            )
        method, chosen = "mask_pattern", params(n=n, m=m, largest=largest)
    elif options["scope"] == "global":
        method, chosen = MASK_ALL, params(sparsity=sparsity, largest=largest, edit=number)
    else:
        method = "mask_rows" if options["scope"] == "row" else "mask"
        chosen = params(sparsity=sparsity, largest=largest)
    score = _score(expr, options)
    if score is None:
        return Apply(expr, method, chosen)
    return Combine((expr, score), method, chosen)


def _shell(
    name: str,
    shape: tuple[int, ...],
    expr: Expr,
    options: dict[str, Any],
    headers: Sequence[Header],
) -> Expr:
    """Embeddings, final norm and output blended like the layers."""
    inputs: list[Expr] = []
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
