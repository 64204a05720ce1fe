"""Which layers of its sources a file is made of, as its own header tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..arch import rules_for
from ..errors import PlanError
from ..ggufio.header import read_header
from ..ggufio.types import Header
from ..plan.recipe import PLAIN_STEPS, Recipe, Step
from ..plan.types import Plan
from ..provenance import lineage, read_provenance


def plan_of(made: str | Path, uncut: Header) -> Plan:
    """The plan that made a file out of `uncut`: its first source, or what that was made from.

    Raises:
        FormatError: the file does not tell how it was made.
        PlanError: the recipes do not lead from `uncut` to it, or give another number of layers.
    """
    header = read_header(made)
    read_provenance(header)
    all_of, before = _operations(header), _operations(uncut)
    after = all_of[len(before) :]
    said = _words(after)
    if all_of[: len(before)] != before or (all_of and not after):
        raise PlanError(
            f"{Path(made).name} was not made from {uncut.path.name}, which was operated on itself",
            expected=_words(all_of[:-1]), found=_words(before),
            hint="Give the file that it was made from.",
        )  # fmt: skip
    if len(after) > 1 and any(n > 1 for _, n in after):
        raise PlanError(
            f"{Path(made).name} was made from several models in more than one step ({said})",
            hint="Take one step after the other, each with its own sources.",
        )
    plan = Plan.identity(uncut.n_layers, rules_for(uncut, allow_unknown=True).n_tail(uncut))
    for recipe, _ in after:
        plan = apply_recipe(recipe, plan)
    if plan.n_layers != header.n_layers:
        raise PlanError(
            f"{Path(made).name} was not made from {uncut.path.name}: its recipe "
            f"({said}) would give {plan.n_layers} layers, it has {header.n_layers}"
        )
    return plan


def _operations(header: Header) -> tuple[tuple[Recipe, int], ...]:
    """The recipes that led to a file and what they had as inputs, without edits of the header."""
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


def _words(recipes: Sequence[tuple[Recipe, int]]) -> str:
    return "; then ".join(recipe.describe() for recipe, _ in recipes) or "no operation"


def apply_recipe(recipe: Recipe, plan: Plan) -> Plan:
    """The plan with a recipe's steps and options behind it."""
    plan = recipe.apply(plan)
    if dict(recipe.options).get("drop_mtp"):
        plan = Recipe((Step("drop_mtp"),)).apply(plan)
    return plan
