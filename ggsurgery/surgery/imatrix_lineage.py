"""The model that an importance matrix was made on, and whether its layers match a file's.

Entries know their layers by number alone. After `swap`, `move` or `keep` the numbers mean other
layers, and a matrix of the uncut model gives each layer another one's importances.

llama-imatrix keeps no trace of its model. `ggsurgery imatrix` does, in the matrix's header:

ggsurgery.imatrix.model       checksum of the file that it was collected on
ggsurgery.imatrix.operations  the operations that had made that file, as JSON: [[recipe, inputs], …]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..arch import rules_for
from ..arch.channels import DOWN
from ..errors import FormatError, GGSurgeryError, PlanError
from ..ggufio.constants import GGUFValueType
from ..ggufio.imatrix import Imatrix
from ..ggufio.types import Header, Value
from ..plan.channels import kept_channels
from ..plan.groups import is_narrower, kept_columns
from ..plan.recipe import PLAIN_STEPS, Recipe, Step
from ..plan.types import Plan, references
from .provenance import lineage

#: What a user can state about a matrix without a record: made on the uncut model, or on this file.
Of = Literal["base", "this"]
#: Recipes, oldest first, each with its number of inputs.
Operations = tuple[tuple[Recipe, int], ...]

MODEL = "ggsurgery.imatrix.model"
OPERATIONS = "ggsurgery.imatrix.operations"


def operations(header: Header) -> Operations:
    """The recipes that led to a file, without edits of the header."""
    found = (
        (
            replace(
                r, steps=tuple(s for s in r.steps if s.operation not in PLAIN_STEPS), name=None
            ),
            n,
        )
        for r, n in lineage(header)
    )
    return tuple((r, n) for r, n in found if r.steps)


def in_words(recipes: Sequence[tuple[Recipe, int]]) -> str:
    """The operations, one after the other."""
    return "; then ".join(recipe.describe() for recipe, _ in recipes) or "no operation"


def apply_recipe(recipe: Recipe, plan: Plan) -> Plan:
    """The plan with a recipe's steps and options behind it."""
    plan = recipe.apply(plan)
    if dict(recipe.options).get("drop_mtp"):
        plan = Recipe((Step("drop_mtp"),)).apply(plan)
    return plan


def with_origin(matrix: Imatrix, header: Header | None, checksum: str | None = None) -> Imatrix:
    """The matrix with the trace of its model; without any trace where no header is given."""
    own = {k: v for k, v in matrix.metadata.items() if k not in (MODEL, OPERATIONS)}
    if header is not None:
        recipes = [[r.to_json(), n] for r, n in operations(header)]
        text = json.dumps(recipes, separators=(",", ":"), ensure_ascii=False)
        own[OPERATIONS] = Value.of(text, GGUFValueType.STRING)
        if checksum is not None:
            own[MODEL] = Value.of(checksum, GGUFValueType.STRING)
    return replace(matrix, metadata=own)


def recorded(matrix: Imatrix) -> Operations | None:
    """The operations that made the matrix's model; None if the matrix does not record them.

    Raises:
        FormatError: the entry is damaged.
    """
    if OPERATIONS not in matrix.metadata:
        return None
    try:
        found = json.loads(matrix.metadata[OPERATIONS].value)
        return tuple((Recipe.from_json(recipe), int(n)) for recipe, n in found)
    except (ValueError, TypeError, RecursionError, PlanError) as error:
        raise FormatError(
            "damaged entry", file=matrix.path, tensor=OPERATIONS, found=str(error)
        ) from error


def followed(matrix: Imatrix, header: Header, of: Of | None = None) -> Operations:
    """The operations between the matrix's model and a file: those that its entries must follow.

    A matrix that records its model must belong to the file, or to one that the file was made from.
    For any other matrix the number of layers decides: the file's, or a number that some of the
    file's operations turn into the file's. Where both fit (a swap keeps the number), nothing but
    the user can tell, by `of`.

    Raises:
        PlanError: of another model, or `of` is needed.
    """
    after = operations(header)
    if of == "this":
        return ()
    before = recorded(matrix)
    if before is not None and of is None:
        if before != after[: len(before)]:
            raise PlanError(
                f"the importance matrix {_name(matrix)} is of another model",
                file=header.path,
                expected=f"a model after {in_words(after)}",
                found=f"one after {in_words(before)}",
                hint="Collect it on this file: ggsurgery imatrix FILE OUT --text TEXT.",
            )
        return after[len(before) :]
    if not after:
        return ()
    n = max(matrix.layers, default=-1) + 1
    choices = [after] if of == "base" else [after[k:] for k in range(len(after) + 1)]
    fitting: dict[tuple[tuple[int, ...], ...], Operations] = {}
    for one in choices:
        layers = _gathered(one, matrix, header)
        if layers is not None:
            fitting[layers] = one  # the shortest of those that gather the layers alike
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    name = header.path.name
    if not fitting:
        raise PlanError(
            f"the importance matrix {_name(matrix)} has entries for {n} layers, which fit neither "
            f"{name} nor what it was made from ({in_words(after)})",
            file=header.path,
            expected=f"{header.n_layers} layers, or those before the operations",
            hint=_remap(header, matrix),
        )
    raise PlanError(
        f"the importance matrix {_name(matrix)} may be of {name} or of the model before "
        f"{in_words(after)}: both have {n} layers, in another order",
        file=header.path,
        hint="State the matrix's model: `imatrix_of` base or `imatrix_of` this.",
    )


def plan_between(one: Operations, n_layers: int, header: Header) -> Plan | None:
    """The plan of operations on a model of `n_layers`; None if they do not lead to the file."""
    tail = rules_for(header, allow_unknown=True).n_tail(header)
    for n in dict.fromkeys((n_layers, n_layers + tail)):
        plan = Plan.identity(n, min(tail, n - 1)) if n > 0 else None
        try:
            for recipe, inputs in one:
                plan = apply_recipe(recipe, plan) if plan is not None and inputs == 1 else None
        except GGSurgeryError:
            continue
        if plan is not None and plan.n_layers == header.n_layers:
            return plan
    return None


def check_fits(matrix: Imatrix, header: Header, of: Of | None = None) -> None:
    """Refuse a matrix whose entries would have to follow the layers first.

    Raises:
        PlanError: it belongs to the model before the file's operations, or see `followed`.
    """
    between = followed(matrix, header, of)
    n = max(matrix.layers, default=-1) + 1
    layers = _gathered(between, matrix, header) if between else None
    plan = plan_between(between, n, header) if between else None
    narrower = plan is not None and any(map(is_narrower, plan.stack))
    if between and (narrower or layers != tuple((i,) for i in range(n))):
        raise PlanError(
            f"the importance matrix {_name(matrix)} is of the model before {in_words(between)}, "
            f"and {header.path.name} has other {'columns' if narrower else 'layers'} under the "
            "same numbers",
            file=header.path,
            hint=_remap(header, matrix),
        )


def _gathered(
    one: Operations, matrix: Imatrix, header: Header
) -> tuple[tuple[int, ...], ...] | None:
    """Which layers of the matrix each layer of the file is made of; None where it does not fit."""
    n = max(matrix.layers, default=-1) + 1
    plan = plan_between(one, n, header)
    if plan is None or not _columns_fit(matrix, plan, header):
        return None
    found = (tuple(ref.index for ref in references(block)) for block in plan.stack)
    return tuple(layers for layers in found if all(i < n for i in layers))


def _columns_fit(matrix: Imatrix, plan: Plan, header: Header) -> bool:
    """Whether the plan leaves as many columns of channels and heads as the file has."""
    for number, block in enumerate(plan.stack):
        layer = references(block)[0].index
        for suffix, kept in ((DOWN, kept_channels), ("attn_output.weight", kept_columns)):
            entry = matrix.entries.get(f"blk.{layer}.{suffix}")
            tensor = header.layer_tensors(number).get(suffix)
            if entry is None or tensor is None:
                continue
            try:
                count = len(kept(block, entry.sums.shape[-1]))
            except PlanError:  # it has fewer than an edit names
                return False
            if count != tensor.shape[0]:
                return False
    return True


def _name(matrix: Imatrix) -> str:
    return "" if matrix.path is None else matrix.path.name


def _remap(header: Header, matrix: Imatrix) -> str:
    name = _name(matrix) or "IMATRIX"
    return (
        "Let the entries follow the layers: "
        f"ggsurgery imatrix remap {name} OUT --uncut UNCUT --cut {Path(header.path).name}"
    )
