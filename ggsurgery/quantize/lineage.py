"""Which layers of its sources a file is made of, as its own header tells."""

from __future__ import annotations

from pathlib import Path

from ..arch import rules_for
from ..errors import PlanError
from ..ggufio.header import read_header
from ..ggufio.types import Header
from ..plan.recipe import Recipe, Step
from ..plan.types import Plan
from ..provenance import read_provenance


def plan_of(made: str | Path, uncut: Header) -> Plan:
    """The plan that made a file out of `uncut` (its first source).

    Raises:
        FormatError: the file does not tell how it was made.
        PlanError: the recipe does not fit `uncut`, or gives another number of layers.
    """
    header = read_header(made)
    recipe = read_provenance(header).recipe
    tail = rules_for(uncut, allow_unknown=True).n_tail(uncut)
    plan = apply_recipe(recipe, uncut.n_layers, tail)
    if plan.n_layers != header.n_layers:
        raise PlanError(
            f"{Path(made).name} was not made from {uncut.path.name}: its recipe "
            f"({recipe.describe()}) would give {plan.n_layers} layers, it has {header.n_layers}"
        )
    return plan


def apply_recipe(recipe: Recipe, n_layers: int, n_tail: int = 0) -> Plan:
    """The plan of a recipe on a model of so many layers."""
    plan = recipe.apply(Plan.identity(n_layers, n_tail))
    if dict(recipe.options).get("drop_mtp"):
        plan = Recipe((Step("drop_mtp"),)).apply(plan)
    return plan
