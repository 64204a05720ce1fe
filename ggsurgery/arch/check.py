"""What is wrong with a file of a known or unknown architecture: findings for `verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ggufio.types import Header
from . import arrays
from .kinds import Finding

if TYPE_CHECKING:
    from .rules import ArchRules


def check(rules: ArchRules, header: Header) -> list[Finding]:
    """All findings, errors first."""
    found = [*_arrays(header)]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda f: order[f.severity])


def _arrays(header: Header) -> list[Finding]:
    found = []
    for name, value in arrays.layer_arrays(header).items():
        if not arrays.right_length(header, len(value)):
            found.append(
                Finding(
                    "error",
                    name,
                    f"has {len(value)} entries for {header.n_layers} layers",
                    "Layers were removed without it: mend it with `ggsurgery repair`, naming "
                    "the removed layers.",
                )
            )
    return found
