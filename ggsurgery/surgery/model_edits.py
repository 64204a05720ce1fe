"""Edits over the whole model: masks from `prune`, and the shell of a cross-model blend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import PlanError
from ..files.text import regular_expression
from ..ggufio.types import Header
from ..plan.edits import BlendShell, Mask, params
from ..tensors.expr import Apply, Combine, Expr, Given, Read, reads
from ..tensors.global_threshold import MASK_ALL
from ..tensors.parts import is_integer
from ..tensors.scales import Get, belongs_to_weight, effective, scale_of
from ..tensors.shape import shape_of
from ..tensors.to_expr import join
from ..tensors.wanda import IMATRIX, input_norms, read_for_norms, slab_count
from .imatrix_lineage import check_fits


def masked(masks: Sequence[Mask], tensors: Mapping[str, Expr]) -> dict[str, Expr | None]:
    """The tensors of a model that masks change; None for those that leave.

    A weight with a separate scale is masked by what it is together with it; it comes out
    multiplied, and the scale leaves.

    Raises:
        PlanError: a mask that chooses no tensor, or a pattern that the rows
            cannot be cut into.
        FormatError: the imatrix of a score does not know the tensor.
    """
    _check_masks(masks, tensors)
    get = tensors.get
    changed: dict[str, Expr | None] = {}
    for name in tensors:
        if belongs_to_weight(get, name):
            continue
        before = effective(get, name)
        assert before is not None
        after = _mask_all(masks, name, shape_of(before), before)
        if after is not before:
            changed[name] = after
    return with_folded_scales(changed, tensors)


def with_folded_scales(
    changed: Mapping[str, Expr | None], tensors: Mapping[str, Expr]
) -> dict[str, Expr | None]:
    """The changes, and what follows where a changed weight takes up its separate scale.

    The scale leaves, and what else it multiplied is multiplied too.
    """
    get, found = tensors.get, dict(changed)
    folded = {_stem(name) for name in changed if scale_of(get, name) is not None}
    for name in tensors:
        if _stem(name) in folded and name not in found:
            if belongs_to_weight(get, name):
                found[name] = None
            elif scale_of(get, name) is not None:
                found[name] = effective(get, name)
    return found


def _indices(expr: Expr) -> bool:
    return any(is_integer(r.tensor.type) for r in reads(expr))


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _mask_all(masks: Iterable[Mask], name: str, shape: tuple[int, ...], expr: Expr) -> Expr:
    """One output tensor behind the masks; `expr` itself where none concerns it."""
    for number, mask in enumerate(masks):
        if prunable(name, shape, mask.only):
            expr = _mask(name, shape, expr, mask, number)
    return expr


def blended_shell(
    edit: BlendShell, names: Sequence[str], headers: Sequence[Header]
) -> dict[str, Expr | None]:
    """Embeddings, final norm and output blended like the layers; None for what leaves.

    Raises:
        ArchitectureError: a model has no such tensor, or one of another shape.
    """
    numbers, method, options = edit.sources, edit.method, dict(edit.params)

    def tensors(number: int) -> Get:
        def get(name: str) -> Expr | None:
            tensor = headers[number].by_name.get(name)
            return None if tensor is None else Read(number, tensor)

        return get

    parents = [tensors(number) for number in numbers]
    files = [headers[n].path.name for n in numbers]
    return {
        name: join(parents, name, [f"{file}: {name}" for file in files], method, options)
        for name in names
    }


def _check_masks(masks: Sequence[Mask], tensors: Mapping[str, Expr]) -> None:
    """Refuse a mask that chooses no tensor, naming the expression that matches none."""
    for mask in masks:
        only = mask.only
        if not any(
            prunable(name, shape_of(expr), only)
            and not _indices(expr)
            and not belongs_to_weight(tensors.get, name)
            for name, expr in tensors.items()
        ):
            raise PlanError(
                "no tensor to prune",
                found=None if only is None else f"only {only}",
                hint="`ggsurgery inspect --tensors` lists the names.",
            )


def check_imatrices(masks: Iterable[Mask], headers: Sequence[Header]) -> None:
    """Refuse a score by an importance matrix that is of the model before the file's operations.

    Raises:
        PlanError: how its entries come behind the layers.
    """
    for mask in masks:
        if mask.imatrix is not None:
            check_fits(read_for_norms(mask.imatrix), headers[0], mask.imatrix_of)


def prunable(name: str, shape: tuple[int, ...], only: str | None) -> bool:
    """Whether `prune` chooses a tensor: the matrices of the layers, or what `only` matches.

    Raises:
        FormatError: `only` is not a regular expression.
    """
    if only is None:
        router = "ffn_gate_inp" in name
        return (
            name.startswith("blk.") and name.endswith(".weight") and len(shape) > 1 and not router
        )
    return regular_expression(only).search(name) is not None


def _score(expr: Expr, mask: Mask) -> Expr | None:
    """The score that selects weights: None for their magnitude, else Wanda's score."""
    if mask.score == "magnitude":
        return None
    source = reads(expr)[0].tensor
    width, slabs = source.shape[0], slab_count(source.shape)
    key = f"{mask.imatrix}|{source.name}"
    input_norms(key, width, slabs)  # fail now if data would be missing later
    return Combine((expr, Given(f"{IMATRIX}{key}", (width, slabs))), "score")


def _mask(name: str, shape: tuple[int, ...], expr: Expr, mask: Mask, number: int) -> Expr:
    if _indices(expr):
        return expr
    largest, sparsity, n, m = mask.largest, mask.sparsity, mask.n, mask.m
    if m is not None:
        if shape[0] % m:
            raise PlanError(
                f"rows of {shape[0]} weights cannot be cut into groups of {m}", tensor=name
            )
        method, chosen = "mask_pattern", params(n=n, m=m, largest=largest)
    elif mask.scope == "global":
        method, chosen = MASK_ALL, params(sparsity=sparsity, largest=largest, edit=number)
    else:
        method = "mask_rows" if mask.scope == "row" else "mask"
        chosen = params(sparsity=sparsity, largest=largest)
    score = _score(expr, mask)
    if score is None:
        return Apply(expr, method, chosen)
    return Combine((expr, score), method, chosen)
