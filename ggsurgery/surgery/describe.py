"""A plan in words: what each new layer is made of."""

from __future__ import annotations

from typing import Any

from ..plan.types import Blend, Block, Edited, Plan, Take, main_reference


def describe(block: Block) -> str:
    """What a layer is made of: `11`, `lerp(20, 22)`, `1:4` for layer 4 of the second file."""
    match block:
        case Take(ref):
            return str(ref.index) if ref.source == 0 else f"{ref.source}:{ref.index}"
        case Blend(parents, method, options):
            inner = ", ".join(describe(p) for p in parents)
            more = "".join(f", {k}={v}" for k, v in options)
            return f"{method}({inner}{more})"
        case Edited(inner_block, edits):
            return f"{describe(inner_block)} + {', '.join(e.kind for e in edits)}"


def layer_map(plan: Plan) -> list[dict[str, Any]]:
    """One row a new layer: its number, what it is made of, and its main origin."""
    rows = []
    for number, block in enumerate(plan.stack):
        ref = main_reference(block)
        rows.append(
            {"new": number, "from": describe(block), "source": ref.source, "layer": ref.index}
        )
    return rows
