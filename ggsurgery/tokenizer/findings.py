"""Findings of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """An `error` makes texts or conversations go wrong, a `warning` may."""

    level: Literal["error", "warning"]
    check: str
    message: str
