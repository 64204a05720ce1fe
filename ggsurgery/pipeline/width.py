"""The section `prune-width` of a recipe: channels that leave the source before its operations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..compensate.fit import check_wins
from ..compensate.sidecar import Sidecar
from ..compensate.width.prune import keep_step
from ..errors import FormatError
from ..files.digest import sha256_of_file
from ..files.progress import Progress
from ..jobs.prune_width import PruneWidthRequest
from ..plan.recipe import Recipe
from .document import Document
from .paths import Places


def request_of(document: Document, source: Path) -> PruneWidthRequest:
    """The section as a request about the source.

    Raises:
        FormatError: a text or matrix is missing, or another section does the same.
    """
    section = document.file.prune_width
    assert section is not None
    document.check_files(section)
    other = "laco" if document.file.laco is not None else "heal"
    if other == "laco" or (document.file.heal is not None and section.refit):
        hint = "`refit: false` leaves the refit to heal."
        if other == "laco":
            hint = "Run the one first, and the other on its result."
        raise FormatError(
            f"a recipe has either prune-width or {other}", file=document.path, hint=hint
        )
    values = section.values() | {
        "file": source,
        "allow_unknown_arch": bool(dict(document.recipe.options).get("allow_unknown_arch")),
    }
    values.pop("sidecar")
    return PruneWidthRequest(**values)


def settings_of(document: Document) -> dict[str, Any]:
    """The section as a task's key holds it: files count by their content."""
    section = document.file.prune_width
    found = document.section("prune-width")
    for name in ("text", "imatrix"):
        if (path := getattr(section, name)) is not None:
            found[name] = sha256_of_file(path)
    return found


def narrowed(
    document: Document, source: Path, places: Places, progress: Progress
) -> tuple[Recipe, Sidecar | None, dict[str, Any]]:
    """The recipe of the cut with the channels that stay, its arrays, and figures."""
    section = document.file.prune_width
    assert section is not None
    result = request_of(document, source).run(progress)
    found, healed = result.narrowed, result.narrowed.healed
    if healed is not None and not section.any_refit:
        check_wins(healed.losses)
    arrays = None if healed is None else healed.sidecar
    if arrays is not None and section.sidecar:
        arrays.save(places.sidecar("cut"), force=True)
    facts = found.to_json()
    losses = None if healed is None else healed.to_json()["held_out_nll"]
    kept = {k: facts[k] for k in ("channels", "score", "lost")} | {"held_out_nll": losses}
    recipe = _in_front(document, found.recipe)
    if section.out_type is not None:
        options = dict(recipe.options) | {"out_type": section.out_type}
        recipe = replace(recipe, options=tuple(options.items()))
    return recipe, arrays, {"width": kept, "warnings": list(result.warnings)}


def estimated(document: Document, source: Path) -> Recipe:
    """A recipe of about the same sizes, before the channels are chosen."""
    size = request_of(document, source).size
    if size.after == size.before:
        return document.recipe
    kept = dict.fromkeys(size.layers, tuple(range(size.after)))
    return _in_front(document, Recipe((keep_step(kept),)))


def _in_front(document: Document, found: Recipe) -> Recipe:
    return replace(document.recipe, steps=(*found.steps, *document.recipe.steps))
