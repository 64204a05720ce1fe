"""Architectures without a rule file: the operations that are safe without knowing them.

Layers may be removed if nothing in the file distinguishes them: no array has the layer count's
length, no positional key is set, and all layers have the same tensors. Everything else stops unless
the caller allows unknown architectures.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ArchitectureError
from ..ggufio.constants import GGUFValueType
from ..ggufio.types import Header
from ..plan.types import Plan, Take, main_reference
from . import arrays, properties
from .rulefile import RuleFile, keys

UNKNOWN = RuleFile(architectures=(), version="", source=())
HINT = "`allow_unknown_arch` permits it; then check the output's perplexity."


def check_unknown(
    family: str, headers: Sequence[Header], plan: Plan, *, allow: bool
) -> tuple[str, ...]:
    """Refuse a surgery on an unknown architecture that could change a layer's kind.

    Args:
        family: the architecture's name.
        allow: warn only.

    Returns:
        The warnings.

    Raises:
        ArchitectureError: otherwise.
    """
    reasons = [r for h in headers for r in reasons_against(h)]
    refs = [main_reference(b) for b in plan.stack]
    plain = all(isinstance(b, Take) for b in plan.stack) and len({r.source for r in refs}) == 1
    order = [r.index for r in refs]
    if not plain or order != sorted(set(order)):
        reasons.append("only removing layers is known to be safe")
    if not reasons:
        return ()
    if allow:
        return tuple(f"architecture {family} has no rules: {r}" for r in reasons)
    raise ArchitectureError(
        f"architecture {family or '(none)'} has no rules: {reasons[0]}",
        file=headers[plan.shell].path,
        hint=HINT,
    )


def reasons_against(header: Header) -> list[str]:
    """Why the layers of an unknown architecture may differ by their position."""
    reasons = []
    for name in [*arrays.layer_arrays(header), *arrays.unknown_arrays(header)]:
        reasons.append(f"{name} has one entry per layer")
    for key in keys()["layer_numbers"]:
        if properties.full_key(header, key) in header.metadata:
            reasons.append(f"{properties.full_key(header, key)} names layers")
    for key in keys()["positional"]:
        value = header.metadata.get(properties.full_key(header, key))
        if value is None or value.type == GGUFValueType.STRING:
            continue
        if value.type == GGUFValueType.ARRAY or value.value > 0:
            reasons.append(f"{properties.full_key(header, key)} makes layers differ by position")
    if difference := unlike_layers(header):
        reasons.append(difference)
    return reasons


def unlike_layers(header: Header) -> str:
    """The first layer whose tensors differ from layer 0's in name or shape; '' if none."""
    first = {s: t.shape for s, t in header.layer_tensors(0).items()}
    if not first:
        return "there are no tensors blk.0.*"
    for layer in range(1, header.n_layers):
        own = {s: t.shape for s, t in header.layer_tensors(layer).items()}
        if own != first:
            odd = sorted(set(first.items()) ^ set(own.items()))[0][0]
            return f"layers 0 and {layer} differ in {odd}"
    return ""
