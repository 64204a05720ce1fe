"""Options of the commands that compute tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--out-type",
        metavar="TYPE",
        help="Type of the computed matrices: f16, bf16, f32, q8_0, q4_k …; default: the source's.",
    ),
    click.option(
        "--force-kinds",
        is_flag=True,
        help="Blend layers of unlike kinds (windowed with full attention …) all the same.",
    ),
)


def computing_options(function: F) -> F:
    """Add --out-type and --force-kinds."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def computed(out_type: str | None, force_kinds: bool) -> dict[str, Any]:
    """The same as options of a recipe."""
    return {"out_type": out_type, "force_kinds": force_kinds or None}
