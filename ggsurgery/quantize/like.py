"""Take the tensor types of another file: `--like` of any, `--pin` of the uncut model.

llama.cpp's K_M mixes give some layers more bits by their place in the stack, so the same
type means other tensors after surgery. Pinning asks what the uncut model would have got and
lets each layer take its type along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PlanError
from ..ggufio.header import read_header
from ..ggufio.types import BLOCK_NAME, Header
from ..plan.types import Plan, main_reference
from ..runtime.filetypes import file_type_name, file_types
from ..runtime.quantize import plan as plan_quantization
from ..surgery.lineage import plan_of

FLOAT_TYPES = ("F32", "F16", "BF16")

#: Patterns with their type, as `runtime.quantize.quantize` takes them.
Patterns = list[tuple[str, str]]


def pinned(made: str | Path, uncut: str | Path, ftype: str, **options: Any) -> Patterns:
    """The types that the layers of `made` would have in the uncut model.

    Args:
        made: the file after surgery; its header holds the recipe.
        uncut: its first source, in any type.
        options: `imatrix`, `pure` … as of `runtime.quantize.plan`.

    Raises:
        FormatError: `made` has no ggsurgery provenance.
        PlanError: it was not made from `uncut`.
    """
    header = read_header(uncut)
    plan = plan_of(made, header)
    options = {k: v for k, v in options.items() if k != "tensor_types"}
    (planned,) = plan_quantization(uncut, [ftype], **options, trial=True)
    types = {t.name: t.new for t in planned.result.tensors if len(t.shape) > 1}
    return patterns(carried(types, plan))


def with_pins(
    made: str | Path, uncut: str | Path, ftype: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """`options` with the pinned types behind the tensor types that are asked for by name."""
    asked = [*options.get("tensor_types", ())]
    if ftype.upper() in FLOAT_TYPES:  # no mix to pin, and llama.cpp would ignore it
        return dict(options)
    return {**options, "tensor_types": [*asked, *pinned(made, uncut, ftype, **options)]}


def carried(types: Mapping[str, str], plan: Plan) -> dict[str, str]:
    """Types by tensor name, the layers' types carried to where a plan puts the layers.

    Layers that come from another source than the first keep llama.cpp's choice.
    """
    found = {n: t for n, t in types.items() if BLOCK_NAME.match(n) is None}
    layers: dict[int, dict[str, str]] = {}
    for name, kind in types.items():
        if match := BLOCK_NAME.match(name):
            layers.setdefault(int(match[1]), {})[match[2]] = kind
    for index, block in enumerate(plan.stack):
        ref = main_reference(block)
        if ref.source == 0:
            for suffix, kind in layers.get(ref.index, {}).items():
                found[f"blk.{index}.{suffix}"] = kind
    return found


def like(src: str | Path, other: str | Path) -> tuple[str, Patterns, str]:
    """File type, patterns and a sentence on how `src` gets the mix of `other`.

    With another number of layers each layer takes the types of the layer at the same
    relative depth.

    Raises:
        PlanError: the files share no tensor names.
    """
    ours, theirs = read_header(src), read_header(other)
    types = {t.name: t.type_name for t in theirs.tensors if len(t.shape) > 1}
    found: dict[str, str] = {}
    n, m = _layers(ours), _layers(theirs)
    for tensor in ours.tensors:
        name = tensor.name
        if (match := BLOCK_NAME.match(name)) and n != m and n > 1:
            depth = round(int(match[1]) * (m - 1) / (n - 1))
            name = f"blk.{depth}.{match[2]}"
        if len(tensor.shape) > 1 and name in types:
            found[tensor.name] = types[name]
    if not found:
        raise PlanError(
            f"{Path(other).name} shares no tensor names with {Path(src).name}",
            hint="--like takes the mix of a file of the same architecture.",
        )
    number = theirs.get("general.file_type")
    ftype = file_type_name(number) if number in file_types().values() else "Q8_0"
    missing = sum(len(t.shape) > 1 for t in ours.tensors) - len(found)
    words = f"the mix of {Path(other).name} ({ftype})"
    if n != m:
        words += f", {n} layers by the relative depth of its {m}"
    if missing:
        words += f"; {missing} tensors it lacks follow {ftype}"
    if ftype in FLOAT_TYPES and {t.upper() for t in found.values()} <= set(FLOAT_TYPES):
        return ftype, [], words  # no mix, and llama.cpp would ignore it
    return ftype, patterns(found), words


def _layers(header: Header) -> int:
    return 1 + max((t.layer for t in header.tensors if t.layer is not None), default=-1)


def patterns(types: Mapping[str, str]) -> Patterns:
    """Regular expressions that give each tensor its type, one for each (kind, type).

    Example:
        >>> patterns({"blk.0.attn_v.weight": "q6_k", "blk.2.attn_v.weight": "q6_k"})
        [('^blk\\\\.(0|2)\\\\.attn_v\\\\.weight$', 'q6_k')]
    """
    layers: dict[tuple[str, str], list[int]] = {}
    result: Patterns = []
    for name, kind in types.items():
        if match := BLOCK_NAME.match(name):
            layers.setdefault((match[2], kind), []).append(int(match[1]))
        else:
            result.append((f"^{re.escape(name)}$", kind))
    for (suffix, kind), numbers in layers.items():
        listed = "|".join(str(i) for i in sorted(numbers))
        result.append((rf"^blk\.({listed})\.{re.escape(suffix)}$", kind))
    return result
