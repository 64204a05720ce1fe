"""Hand-made recipes measured beside a study's own configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..candidates.measure import Setup
from ..candidates.worker import Trial, measure_all
from ..plan.recipe import load_recipe


def measure_recipes(setup: Setup, files: Sequence[Path], journal: Path) -> list[Trial]:
    """Measure recipe files with the study's setup.

    Raises:
        FormatError: a file is no recipe.
    """
    recipes = [load_recipe(file) for file in files]
    _, trials = measure_all(setup, recipes, journal)
    return trials
