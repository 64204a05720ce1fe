"""The arrays of a healed or distilled model, which are too large for its recipe."""

from __future__ import annotations

from pathlib import Path

from ..compensate.fit_again import check_arrays, fit_of, heal_again
from ..compensate.sidecar import Sidecar
from ..errors import GGSurgeryError
from ..files.progress import Progress
from ..plan.recipe import Recipe
from ..runtime import worker
from .fields import corpus
from .request import FilePath


def arrays_of(
    recipe: Recipe,
    source: FilePath,
    *,
    sidecar: FilePath | None,
    text: FilePath | None = None,
    named: FilePath,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sidecar | None:
    """The arrays that a recipe names, from their file or fitted again in a child process.

    Args:
        source: the uncut model.
        text: the calibration text of a healed cut, for a fit without a sidecar.
        named: the file that holds the recipe, for messages.

    Raises:
        GGSurgeryError: neither the arrays nor the text are given, or they do not match.
    """
    fit = fit_of(recipe)
    if fit is None:
        return None
    if sidecar is not None:
        found = Sidecar.load(sidecar)
        check_arrays(recipe, found, str(sidecar))
        return found
    if any(one.operation == "distil" for one in recipe.steps):
        raise GGSurgeryError(
            "training is not reproducible bit for bit, and what it changed is not in the recipe",
            file=named,
            expected="`sidecar` with the arrays that `distil --out` wrote",
        )
    if text is None:
        raise GGSurgeryError(
            "the corrections of a healed cut are not in the recipe",
            file=named,
            hint="`apply` and `replay` take what `heal --out` wrote; `replay` also takes "
            f"--text, the calibration text (sha256 {str(fit.get('text'))[:16]}…), and fits again.",
        )
    return worker.run(
        heal_again,
        recipe,
        Path(source),
        corpus(text),
        n_threads=threads,
        progress=progress,
        file=source,
    )
