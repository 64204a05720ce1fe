"""The tensors that llama.cpp's loader asks for, architecture by architecture.

The data come from the loader itself: see data/_tensors.toml, data/_layers.toml,
data/_scales.toml and tests/fixtures/survey.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ..ggufio.types import Header

_LAYER = re.compile(r"((?:enc\.|dec\.)?blk)\.(0|[1-9][0-9]*)\.(.+)", re.DOTALL)

#: A fused tensor and the separate tensors that can replace it; a layer has one or the others.
FUSED = {
    "blk.{}.attn_qkv": ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
    "blk.{}.ffn_gate_up_exps": ("blk.{}.ffn_gate_exps", "blk.{}.ffn_up_exps"),
}

#: Name suffixes that quantization tools may add to any tensor.
_ADDED = re.compile(r"\.(scale|input_scale|weight_scale)$")


@dataclass(frozen=True, slots=True)
class Asked:
    """One tensor of an architecture.

    Args:
        shape: names of sizes (`arch.dimensions`), row length first, `?` for an unknown one.
        required: a file without it does not load (if the loader expects it in that layer).
        always: it is requested regardless of the keys; only for tensors outside the layers.
    """

    shape: tuple[str, ...]
    required: bool
    always: bool


def pattern_of(name: str) -> tuple[str, int | None]:
    """A tensor's name with `{}` in place of its layer number, and that number."""
    match = _LAYER.fullmatch(name)
    return (f"{match[1]}.{{}}.{match[3]}", int(match[2])) if match else (name, None)


def alternatives(pattern: str) -> tuple[str, ...]:
    """Tensors that can replace this one: the fused tensor, or the parts of a fused tensor."""
    stem, _, end = pattern.rpartition(".")
    for whole, parts in FUSED.items():
        if stem == whole:
            return tuple(f"{part}.{end}" for part in parts)
        if stem in parts:
            return (f"{whole}.{end}",)
    return ()


def knows(patterns: Iterable[str], pattern: str) -> bool:
    """Whether a tensor is among some, or is the scale that belongs to one of them."""
    known = set(patterns)
    stem = _ADDED.sub("", pattern)
    return pattern in known or (stem != pattern and f"{stem}.weight" in known)


@cache
def asked(arch: str) -> dict[str, Asked]:
    """pattern → tensor; empty for an architecture that was not surveyed."""
    return {
        pattern: Asked(
            shape=() if names == "" else tuple(names.split()),
            required=arch not in optional and arch not in fused,
            always=arch not in some,
        )
        for pattern, shapes, optional, some, fused in _table()
        for names, archs in shapes.items()
        if arch in archs
    }


@cache
def surveyed() -> frozenset[str]:
    """The architectures in the data: language models that llama.cpp builds from metadata."""
    return frozenset(a for _, shapes, *_ in _table() for archs in shapes.values() for a in archs)


@cache
def layer_kinds(arch: str) -> tuple[frozenset[str], ...]:
    """The tensors that a layer needs to load: one set of patterns for each kind of layer.

    Empty for an architecture that was not surveyed.
    """
    table = _data("_layers").get(arch)
    if table is None:
        return ()
    every = frozenset(table["every"].split())
    kinds = (every | frozenset(kind.split()) for kind in table.get("kinds", [""]))
    return tuple(frozenset(f"blk.{{}}.{name}" for name in kind) for kind in kinds)


def ignored_scales(header: Header) -> frozenset[str]:
    """The separate scales (`blk.0.ffn_up.scale`) that llama.cpp reads and its graph leaves out."""
    return frozenset(
        t.name
        for t in header.tensors
        if t.layer is not None
        and t.name.endswith(".scale")
        and header.architecture in _without_scale(t.name.split(".", 2)[2].removesuffix(".scale"))
    )


@cache
def _without_scale(matrix: str) -> frozenset[str]:
    return frozenset(_data("_scales").get(matrix, "").split())


_Row = tuple[str, dict[str, frozenset[str]], frozenset[str], frozenset[str], frozenset[str]]


@cache
def _table() -> tuple[_Row, ...]:
    rows = []
    for pattern, table in _data("_tensors").items():
        sets = {name: frozenset(archs.split()) for name, archs in table.items()}
        lists = [sets.pop(name, frozenset()) for name in ("optional", "some", "fused")]
        rows.append((pattern, sets, lists[0], lists[1], lists[2]))
    return tuple(rows)


def _data(name: str) -> dict[str, Any]:
    path = resources.files(__package__) / "data" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))
