"""How the computing operations are written in a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..errors import PlanError
from . import blend_ops, ops
from .channels import channels_by_layer, keep_channels
from .distil import distil
from .groups import groups_of_layers, keep_groups
from .heal import heal
from .lora import merge_lora
from .text import mapping, parse_layers, parse_pair, whole

T = TypeVar("T")

_TENSOR = re.compile(r"[A-Za-z0-9_.]+")


def number(value: Any) -> float:
    """A number, also written as text.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number, found {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("the number is too large") from None


def numbers(value: Any) -> tuple[float, ...]:
    """Numbers as a list or as text: `0.5,0.25`.

    Raises:
        ValueError: something else.
    """
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        value = [value]
    return tuple(number(v) for v in value)


def scales(value: Any) -> tuple[tuple[tuple[str, ...], float], ...]:
    """Factors on tensors, as text or a list of texts: `attn_q,attn_k=0.7`.

    Raises:
        ValueError: something else.

    Example:
        >>> scales("attn_q,attn_k=0.7")
        ((('attn_q', 'attn_k'), 0.7),)
    """
    found = []
    for text in value if isinstance(value, list | tuple) else [value]:
        names, equals, factor = str(text).partition("=")
        listed = tuple(name.strip() for name in names.split(","))
        if not equals or not all(_TENSOR.fullmatch(name) for name in listed):
            raise ValueError(f"expected such as attn_q,attn_k=0.7, found {text!r}")
        found.append((listed, number(factor)))
    return tuple(found)


def quoted(value: Any) -> str:
    """Text that YAML reads as a number without quotes: 2:4 is 124.

    Raises:
        ValueError: it is not text.
    """
    if not isinstance(value, str):
        raise ValueError(f'expected text in quotes, such as "2:4", found {value!r}')
    return value


def flag(value: Any) -> bool:
    """True or false.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {value!r}")
    return value


def experts_by_layer(value: Any) -> dict[int, tuple[int, ...]]:
    """The experts of each layer, from a mapping such as `{0: "0-11", 1: "0,2-12"}`.

    Raises:
        PlanError: no such mapping, or a layer whose list is empty or names an expert twice.

    Example:
        >>> experts_by_layer({"0": "0-2,5"})
        {0: (0, 1, 2, 5)}
    """
    return {n: experts for n, experts, _ in _by_layer(value, lambda t: (parse_layers(t),) * 2)}


def groups_by_layer(value: Any) -> dict[int, tuple[tuple[tuple[int, float], ...], ...]]:
    """The groups of experts of each layer, from a mapping such as `{0: "0*0.7+3*0.3,1,2"}`.

    Raises:
        PlanError: no such mapping, or a layer whose list is empty, names an expert twice, or
            has weights that do not sum to 1.

    Example:
        >>> groups_by_layer({"0": "0*0.75+3*0.25,1"})
        {0: (((0, 0.75), (3, 0.25)), ((1, 1.0),))}
    """
    return {n: groups for n, _, groups in _by_layer(value, _groups)}


def _groups(text: Any) -> tuple[tuple[int, ...], tuple[tuple[tuple[int, float], ...], ...]]:
    groups = []
    for part in str(text).split(","):
        pairs = [member.partition("*") for member in part.split("+")]
        group = tuple((whole(e), number(w) if star else 1.0) for e, star, w in pairs)
        total = sum(w for _, w in group)
        if not abs(total - 1) < 1e-3 or min(w for _, w in group) < 0:
            raise ValueError(f"weights of {part!r} are not shares that sum to 1")
        groups.append(group)
    return tuple(e for group in groups for e, _ in group), tuple(groups)


def _by_layer(
    value: Any, read: Callable[[Any], tuple[tuple[int, ...], T]]
) -> Iterator[tuple[int, tuple[int, ...], T]]:
    if not isinstance(value, Mapping) or not value:
        raise PlanError(
            "not a mapping from layers to experts",
            expected='such as {0: "0-11", 1: "0,2-12"}',
            found=repr(value)[:80],
        )
    for key, text in value.items():
        try:
            (layer,) = parse_layers(key)
            experts, result = read(text)
        except (PlanError, ValueError) as error:
            raise PlanError(f"experts of layer {key}: {error}") from None
        if len(set(experts)) != len(experts):
            twice = next(e for e in experts if experts.count(e) > 1)
            raise PlanError(f"layer {layer}: expert {twice} is named twice")
        yield layer, experts, result


#: name → function, readers of the arguments, required arguments
STEPS: dict[str, tuple[Callable[..., Any], Mapping[str, Callable[[Any], Any]], tuple[str, ...]]] = {
    "keep_experts": (ops.keep_experts, {"experts": experts_by_layer}, ("experts",)),
    "merge_experts": (ops.merge_experts, {"experts": groups_by_layer}, ("experts",)),
    "keep_kv_groups": (keep_groups, {"groups": groups_of_layers, "of": whole}, ("groups", "of")),
    "keep_channels": (keep_channels, {"channels": channels_by_layer}, ("channels",)),
    "lora": (
        merge_lora,
        {"adapter": str, "checksum": str, "scale": number, "layers": parse_layers},
        ("adapter", "checksum"),
    ),
    "merge": (
        blend_ops.merge,
        {"layers": parse_layers, "method": str, "factor": number, "parts": str},
        ("layers",),
    ),
    "interpolate": (
        blend_ops.interpolate,
        {"layers": parse_pair, "weight": number, "method": str, "at": whole},
        ("layers",),
    ),
    "bridge": (
        blend_ops.bridge,
        {"layer": whole, "at": whole, "scale": number, "scale_tensors": scales},
        ("layer", "at"),
    ),
    "duplicate": (
        blend_ops.duplicate,
        {
            "layer": parse_layers,
            "to": whole,
            "times": whole,
            "scale": number,
            "scale_tensors": scales,
        },
        ("layer",),
    ),
    "blend": (
        blend_ops.blend,
        {
            "models": whole,
            "method": str,
            "weights": numbers,
            "density": number,
            "scale": number,
            "seed": whole,
            "layers": parse_layers,
            "normalize": flag,
        },
        ("models", "method"),
    ),
    "prune": (
        blend_ops.prune,
        {
            "sparsity": number,
            "scope": str,
            "pattern": quoted,
            "score": str,
            "imatrix": str,
            "imatrix_of": str,
            "largest": flag,
            "only": str,
        },
        (),
    ),
    "heal": (heal, {"layer": parse_layers, "fit": mapping}, ("fit",)),
    "distil": (distil, {"fit": mapping}, ("fit",)),
}
