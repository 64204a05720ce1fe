"""What is wrong with a file of a known or unknown architecture: findings for `verify`.

A file may load and still be wrong: arrays of another layer count, a pattern that no longer fits the
tensors, a tail without its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..errors import GGSurgeryError
from ..ggufio.types import Header
from ..plan.text import format_layers
from . import arrays, layer_kinds, properties
from .rules import ArchRules
from .types import Finding, LayerKind
from .unprune import original_of

REPAIR = "`ggsurgery repair --removed LIST` fixes the file if you know which layers were removed."
#: Names that only the tensors of recurrent layers have.
RECURRENT = ("ssm_", "shortconv.", "time_mix", "linear_attn", "ssm.")


def check(rules: ArchRules, header: Header) -> list[Finding]:
    """All findings, errors first."""
    found = [*_arrays(header)]
    if not found and rules.known and not rules.rules.refuse:  # refused families have no kinds
        kinds = rules.kinds(header)
        found += _kinds_and_tensors(rules, header, kinds)
        found += _tail(header, kinds)
        found += _windows(rules, header, kinds)
        found += _shared(rules, header, kinds)
        found += _slabs(rules, header)
        found += _recipe(rules, header, kinds)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda f: order[f.severity])


def _arrays(header: Header) -> Iterator[Finding]:
    for name, value in arrays.layer_arrays(header).items():
        if not arrays.right_length(header, len(value)):
            yield Finding(
                "error",
                name,
                f"has {len(value)} entries for {header.n_layers} layers: llama.cpp refuses it, or "
                "gives layers the properties of their neighbours",
                REPAIR,
            )


def _kinds_and_tensors(
    rules: ArchRules, header: Header, kinds: tuple[LayerKind, ...]
) -> Iterator[Finding]:
    """Layers that have the tensors of another kind, which indicates a shifted pattern."""
    layers = [header.layer_tensors(i) for i in range(len(kinds))]
    tell = [any(s.startswith(RECURRENT) for s in suffixes) for suffixes in layers]
    if any(tell):
        wrong = [
            i
            for i, kind in enumerate(kinds)
            if layers[i] and (kind.attention in ("recurrent", "hybrid")) != tell[i]
        ]
        if wrong:
            found = "a recurrent" if tell[wrong[0]] else "an attention"
            yield _several(
                wrong,
                f"layer {wrong[0]} runs as {kinds[wrong[0]].label}, but has the tensors of {found} "
                "layer: the pattern has shifted",
                REPAIR,
            )
    if rules.rules.experts:
        by_tensors = [layer_kinds.ffn_of(suffixes) for suffixes in layers]
        wrong = [
            i
            for i, kind in enumerate(kinds)
            if layers[i] and not kind.mtp and by_tensors[i] != kind.ffn
        ]
        if wrong:
            key = rules.rules.experts.leading or rules.rules.experts.step
            yield _several(
                wrong,
                f"layer {wrong[0]} runs as {kinds[wrong[0]].label}, but has {by_tensors[wrong[0]]} "
                "tensors",
                f"Count the leading dense layers again: {properties.full_key(header, key)}.",
            )


def _several(layers: list[int], problem: str, hint: str) -> Finding:
    return Finding("error", f"layers {format_layers(layers)}", problem, hint)


def _tail(header: Header, kinds: tuple[LayerKind, ...]) -> Iterator[Finding]:
    """MTP blocks that are not counted, and counted layers that are not MTP blocks."""
    marked = [
        any(s.startswith("nextn.") for s in header.layer_tensors(i)) for i in range(len(kinds))
    ]
    key = properties.full_key(header, "nextn_predict_layers")
    for i, kind in enumerate(kinds):
        if kind.mtp and not marked[i] and header.layer_tensors(i):
            yield Finding(
                "error",
                f"blk.{i}",
                f"counts as an MTP layer ({key}), but has no nextn.* tensors",
                "The tail was removed but its count was not updated, or a trunk layer was removed: "
                "set "
                f"{key} to the number of blocks with nextn.* tensors.",
            )
        if marked[i] and not kind.mtp:
            yield Finding(
                "error",
                f"blk.{i}",
                f"has the tensors of an MTP layer, but {key} does not count it",
                "Every MTP layer follows the trunk and is counted.",
            )


def _windows(rules: ArchRules, header: Header, kinds: tuple[LayerKind, ...]) -> Iterator[Finding]:
    rule = rules.rules.window
    n_trunk = sum(not k.mtp for k in kinds)
    if rule and properties.window_size(rule, header, n_trunk) and not any(k.window for k in kinds):
        yield Finding(
            "error",
            properties.full_key(header, rule.pattern_key),
            "names no windowed layer, although the model has a window: llama.cpp aborts",
            f"Set {properties.full_key(header, rule.size)} to 0, or keep a windowed layer.",
        )


def _shared(rules: ArchRules, header: Header, kinds: tuple[LayerKind, ...]) -> Iterator[Finding]:
    start = layer_kinds.kv_start(rules.rules, header)
    if start is None or not any(k.shared_kv for k in kinds):
        return
    for back, attention in ((1, "full"), (2, "window")):
        used = any(k.shared_kv and k.attention == attention for k in kinds)
        place = start - back
        if used and not (place >= 0 and kinds[place].attention == attention):
            yield Finding(
                "error",
                f"blk.{place}" if place >= 0 else "metadata",
                f"is not the {attention} layer whose keys and values the layers from {start} on "
                "read",
                "Layers in front of the sharing ones were removed or moved.",
            )


def _slabs(rules: ArchRules, header: Header) -> Iterator[Finding]:
    n_trunk = header.n_layers - layer_kinds.n_tail(header)
    if not n_trunk:
        return
    sizes = {}
    for rule in rules.rules.slab:
        tensor = header.by_name.get(rule.tensor)
        if tensor is not None and rule.axis < len(tensor.shape):
            sizes[rule.tensor] = tensor.shape[rule.axis]
    norm = header.by_name.get("per_layer_proj_norm.weight")
    for name, size in sizes.items():
        expected = norm.shape[0] * n_trunk if norm else size // n_trunk * n_trunk
        if size != expected:
            yield Finding(
                "error",
                name,
                f"has {size} values a row for all layers, expected {expected}",
                REPAIR,
            )


def _recipe(rules: ArchRules, header: Header, kinds: tuple[LayerKind, ...]) -> Iterator[Finding]:
    """A recipe in the header moved layers, but a pattern was not updated."""
    recipe = header.metadata.get("ggsurgery.recipe")
    if recipe is None:
        return
    try:
        original, order = original_of(header, json.loads(recipe.value))
        wanted = [rules.kinds(original)[i] for i in order]
    except (GGSurgeryError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return  # not a plain rearrangement, so there is nothing to compare
    wrong = [
        i
        for i, (now, then) in enumerate(zip(kinds, wanted, strict=True))
        if (now.attention, now.rope) != (then.attention, then.rope)
    ]
    if wrong:
        i = wrong[0]
        yield _several(
            wrong,
            f"layer {i} runs as {kinds[i].label}; the recipe took layer {order[i]}, which was "
            f"{wanted[i].label}",
            "The layer pattern was not updated when the layers moved; apply the recipe again.",
        )
