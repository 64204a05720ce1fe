"""The step of a recipe that names corrections by their keys and checksums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..files.digest import sha256_of_text
from ..plan.recipe import Step, step
from ..plan.text import format_layers
from .settings import Chosen, Settings
from .sidecar import Sidecar


def heal_step(
    layers: Sequence[int],
    settings: Settings,
    chosen: Chosen,
    text: str,
    sidecar: Sidecar,
    scales: Mapping[int, float],
) -> Step:
    """The step that a header keeps: enough to fit again, and to know the result again."""
    fit: dict[str, Any] = {
        "method": settings.method,
        "tokens": settings.tokens,
        "ctx": settings.ctx,
        "first": settings.first,
        **({"parse_special": True} if settings.parse_special else {}),
        **({"attention": True} if settings.attention else {}),
        **chosen.to_json(),
        "text": sha256_of_text(text),
    }
    if scales:
        fit["scales"] = {str(number): factor for number, factor in scales.items()}
    else:
        fit["arrays"] = {key: sidecar.checksum(key) for key in sidecar}
    cut = format_layers(sorted(set(layers))) if layers else None
    return step("heal", layer=cut, fit=fit)
