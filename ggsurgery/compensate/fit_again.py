"""The arrays of a healed cut, fitted once more from what its recipe keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from ..errors import FormatError, PlanError
from ..files.fields import FieldError, Fields, flag, mapping, number, whole
from ..files.fields import text as text_field
from ..plan.recipe import Recipe
from ..plan.text import parse_layers
from .fit import Method, Progress, Settings, heal, sha256_of
from .sidecar import Sidecar

#: Steps that name arrays which are too large for a recipe.
WITH_ARRAYS = ("heal", "distil")


def heal_again(
    recipe: Recipe, path: str | Path, text: str, progress: Progress | None = None
) -> Sidecar:
    """The arrays of a recipe, fitted once more from the text that they came from.

    Raises:
        PlanError: it is not a recipe of `heal`, or the text is another.
        FormatError: this machine's arithmetic gives other last digits.
    """
    fit = fit_of(recipe)
    if fit is None or [one.operation for one in recipe.steps] != ["heal"]:
        raise PlanError("only what `ggsurgery heal` wrote by itself can be fitted again")
    if sha256_of(text) != fit.get("text"):
        raise PlanError(
            "not the text that the cut was healed on",
            expected=f"sha256 {fit.get('text')}",
            found=sha256_of(text),
        )
    settings = _settings_of(fit, path)
    layers = parse_layers(dict(recipe.steps[0].arguments)["layer"])
    unknown = bool(dict(recipe.options).get("allow_unknown_arch"))
    found = heal(
        path,
        layers,
        text,
        settings,
        allow_unknown_arch=unknown,
        cut_again=True,
        few_tokens=True,
        progress=progress,
    )
    check_arrays(recipe, found.sidecar, "the fit on this machine")
    return found.sidecar


def _settings_of(fit: Mapping[str, Any], path: str | Path) -> Settings:
    """The settings of a fit, as a recipe keeps them.

    Raises:
        FormatError: one is missing or of another type.
        PlanError: an unknown method.
    """
    try:
        fields = Fields(fit)
        method = fields.get("method", text_field)
        settings = Settings(
            cast(Method, method),
            fields.get("tokens", whole),
            fields.get("ctx", whole),
            fields.get("ridge", number),
            fields.get("first", number),
            fields.get_or("parse_special", flag, False),
        )
    except FieldError as error:
        raise error.below("fit").at(file=path) from None
    if method not in get_args(Method):
        raise PlanError("unknown method of healing", found=method)
    return settings


def fit_of(recipe: Recipe) -> dict[str, Any] | None:
    """How the arrays of a recipe's `heal` or `distil` step were found; None without such a step.

    Raises:
        FieldError: the step does not say.
    """
    for one in recipe.steps:
        if one.operation in WITH_ARRAYS:
            return Fields({one.operation: dict(one.arguments)}).get(one.operation, _fit)
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
                    hint="Processors and numpy builds differ in the last digits: keep the "
                    "arrays with `heal --sidecar`, or heal anew.",
                )
