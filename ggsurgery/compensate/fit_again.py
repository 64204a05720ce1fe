"""Fit the corrections of a recipe once more, from the text that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import FormatError, PlanError
from ..files.digest import sha256_of_text
from ..files.fields import FieldError, Fields, dict_of, flag, list_of, mapping, number, whole
from ..files.fields import text as text_field
from ..files.progress import Progress
from ..ggufio.types import type_id
from ..plan.recipe import PLAIN_STEPS, WITH_ARRAYS, Recipe
from ..plan.text import parse_layers
from .fit import heal
from .settings import METHODS, Chosen, Method, Settings
from .sidecar import Sidecar


def heal_again(
    recipe: Recipe,
    path: str | Path,
    text: str,
    progress: Progress | None = None,
    *,
    n_threads: int | None = None,
) -> Sidecar:
    """The arrays of a recipe, fitted once more from the text that they came from.

    Raises:
        PlanError: its last step does not heal, or the text is another.
        FormatError: this machine's arithmetic gives other last digits.
    """
    fit = fit_of(recipe)
    edits = [one for one in recipe.steps if one.operation not in PLAIN_STEPS]
    done = [one.operation for one in edits]
    if fit is None or done[-1] != "heal" or [o for o in done if o in WITH_ARRAYS] != ["heal"]:
        raise PlanError("only a recipe whose last step is `heal` can be fitted again")
    if sha256_of_text(text) != fit.get("text"):
        raise PlanError(
            "not the text that the cut was healed on",
            expected=f"sha256 {fit.get('text')}",
            found=sha256_of_text(text),
        )
    settings, chosen = _asked(fit, path)
    *before, last = edits
    layers = dict(last.arguments).get("layer")
    options = dict(recipe.options)
    found = heal(
        path,
        () if layers is None else parse_layers(layers),
        text,
        settings,
        recipe=Recipe(tuple(before)) if layers is None else None,
        n_threads=n_threads,
        allow_unknown_arch=bool(options.get("allow_unknown_arch")),
        out_type=None if options.get("out_type") is None else type_id(options["out_type"]),
        cut_again=True,
        few_tokens=True,
        any_cut=True,
        chosen=chosen,
        progress=progress,
    )
    check_arrays(recipe, found.sidecar, "the fit on this machine")
    return found.sidecar


def _asked(fit: Mapping[str, Any], path: str | Path) -> tuple[Settings, Chosen]:
    """The settings of a fit and what it chose, as a recipe keeps them.

    Raises:
        FormatError: one is missing or of another type.
        PlanError: an unknown method.
    """
    if fit.get("method") == "experts":
        raise PlanError(
            "corrections of experts cannot be fitted again",
            file=path,
            expected="their arrays, as `ggsurgery experts heal --out` wrote them",
        )
    try:
        fields = Fields(fit)
        method = fields.get("method", text_field)
        settings = Settings(
            cast(Method, method),
            fields.get("tokens", whole),
            fields.get("ctx", whole),
            # files made before ridges were chosen have one for all fits, and no sweep
            None if "ridges" in fit else fields.get("ridge", number),
            fields.get("first", number),
            fields.get_or("parse_special", flag, False),
            attention=fields.get_or("attention", flag, False),
        )
        chosen = Chosen(
            fields.get_or("sweeps", list_of(whole), ()),
            fields.get_or("ridges", dict_of(number), {}),
            fields.get_or("windows", whole, None),
        )
    except FieldError as error:
        raise error.below("fit").at(file=path) from None
    if method not in METHODS:
        raise PlanError("unknown method of healing", found=method)
    return settings, chosen


def fit_of(recipe: Recipe) -> dict[str, Any] | None:
    """How the arrays of a recipe's `heal` or `distil` step were found; None where none are needed.

    Raises:
        FieldError: the step does not say.
    """
    for one in recipe.steps:
        if one.operation in WITH_ARRAYS:
            fit = Fields({one.operation: dict(one.arguments)}).get(one.operation, _fit)
            if not fit.get("scales"):
                return fit
    return None


def _fit(arguments: object) -> dict[str, Any]:
    return dict(Fields(arguments).get("fit", mapping))


def check_arrays(recipe: Recipe, sidecar: Sidecar, what: str) -> None:
    """Refuse arrays that are not those which a recipe names.

    Args:
        what: where they come from, for the message.

    Raises:
        FormatError: one is missing or has other values.
    """
    for one in recipe.steps:
        fit = dict(one.arguments).get("fit") if one.operation in WITH_ARRAYS else None
        for key, expected in (fit or {}).get("arrays", {}).items():
            found = sidecar.checksum(key) if key in sidecar else "none"
            if found != expected:
                raise FormatError(
                    f"{what} has other corrections than the file",
                    tensor=key,
                    expected=f"sha256 {expected}",
                    found=found,
                    hint="Processors and numpy builds differ in the last digits: keep the arrays "
                    f"with `ggsurgery {one.operation} --out` when the file is made.",
                )
