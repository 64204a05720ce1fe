"""Hand-made recipes as trials of a study.

A recipe that is a point of the space is queued as that point, so that the sampler learns
from it. Any other is queued with the recipe itself, which samplers pass over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import GGSurgeryError
from ...plan.recipe import Recipe
from ...plan.types import Plan
from .space import NONE, Space

#: Attribute of a trial that holds a recipe from outside the space.
GIVEN = "given_recipe"
#: Attribute of a trial that somebody asked for by hand.
HAND_MADE = "hand_made"


def enqueue(study: Any, space: Space, recipes: Sequence[Recipe]) -> None:
    """Queue recipes that the study does not hold yet, behind what is queued already."""
    held = [t.user_attrs.get(HAND_MADE) for t in study.get_trials(deepcopy=False)]
    for recipe in recipes:
        document = recipe.to_json()
        if document in held:
            continue
        point = point_of(space, recipe)
        attributes = {HAND_MADE: document}
        if point is None:
            attributes[GIVEN] = document
        study.enqueue_trial(point or {}, user_attrs=attributes)


def point_of(space: Space, recipe: Recipe) -> dict[str, Any] | None:
    """The point whose recipe gives the same plan step by step; None if there is none."""
    if recipe.options or not 0 < len(recipe.steps) <= space.max_ops:
        return None
    plan = Plan.identity(space.n_layers)
    point: dict[str, Any] = {}
    for slot, step in enumerate(recipe.steps):
        try:
            wanted = step.apply(plan)
        except GGSurgeryError:
            return None
        found = next((c for c, after in space.moves(plan) if after == wanted), None)
        if found is None:
            return None
        point |= {f"kind_{slot}": found[0], f"at_{slot}": found[1], f"other_{slot}": found[2]}
        plan = wanted
    for slot in range(len(recipe.steps), space.max_ops):
        point |= {f"kind_{slot}": NONE, f"at_{slot}": 0, f"other_{slot}": 0}
    return point
