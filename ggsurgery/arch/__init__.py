"""Architecture rules: the kind of each layer, and what must change when layers move.

The rules are data, one TOML per family in `data/`; the modules here apply them. An architecture
without a TOML gets rules that allow only operations that are always safe.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import FormatError
from ..ggufio.purpose import not_a_model
from ..ggufio.types import Header
from .rulefile import RuleFile, all_rules, rules_of
from .rules import ArchRules
from .types import Finding, LayerKind, MetadataChange

__all__ = [
    "ArchRules",
    "Finding",
    "LayerKind",
    "MetadataChange",
    "RuleFile",
    "all_rules",
    "rules_for",
]


def rules_for(header: Header, *, allow_unknown: bool = False) -> ArchRules:
    """Return the rules of a header's architecture.

    Args:
        allow_unknown: allow every operation if the architecture has no rule file.

    Raises:
        FormatError: the header names no architecture.
    """
    name = header.architecture
    if not name:
        raise not_a_model(header) or FormatError(
            "no architecture",
            file=header.path,
            tensor="general.architecture",
            expected="a name such as llama",
            found="nothing",
        )
    rules = rules_of(name)
    if rules is None:
        from .generic import UNKNOWN  # for few files

        unknown = replace(UNKNOWN, architectures=(name,))
        return ArchRules(name, False, unknown, allow_unknown)
    return ArchRules(name, True, rules, allow_unknown)
