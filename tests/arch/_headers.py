"""Headers in memory, for rules that need no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType

from ggsurgery.ggufio.types import Header, TensorInfo, Value
from ggsurgery.plan.types import Blend, BlockRef, Plan, Take

ATTENTION = ("attn_norm.weight", "attn_q.weight", "attn_output.weight")
DENSE = ("ffn_norm.weight", "ffn_down.weight")
MOE = ("ffn_norm.weight", "ffn_gate_inp.weight", "ffn_down_exps.weight")
RECURRENT = ("attn_norm.weight", "ssm_in.weight", "ssm_out.weight")


def value(found: Any) -> Value:
    """A metadata value with the type that a converter would give it."""
    if isinstance(found, list):
        if isinstance(found[0], str):
            return Value.of(found, GGUFValueType.ARRAY, GGUFValueType.STRING)
        kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.INT32, float: GGUFValueType.FLOAT32}
        return Value.of(found, GGUFValueType.ARRAY, kinds[type(found[0])])
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    return Value.of(found, kinds.get(type(found), GGUFValueType.STRING))


def header(
    arch: str,
    layers: list[tuple[str, ...]] | int,
    shell: dict[str, tuple[int, ...]] | None = None,
    path: str = "model.gguf",
    **keys: Any,
) -> Header:
    """A header of these layers, each the names of its tensors; `__` in a key is a dot.

    A key that starts with `general__` or `ggsurgery__` gets no architecture in front.
    """
    stack = [ATTENTION + DENSE] * layers if isinstance(layers, int) else layers
    metadata = {"general.architecture": value(arch), f"{arch}.block_count": value(len(stack))}
    for key, found in keys.items():
        name = key.replace("__", ".")
        free = name.startswith(("general.", "ggsurgery.", "xielu."))
        metadata[name if free else f"{arch}.{name}"] = value(found)
    tensors = [TensorInfo(n, s, 0, 0, 64) for n, s in (shell or {}).items()]
    tensors += [
        TensorInfo(f"blk.{i}.{suffix}", (4, 4), 0, 0, 64)
        for i, names in enumerate(stack)
        for suffix in names
    ]
    return Header((Path(path),), 3, "<", 32, metadata, tuple(tensors), (0,), (0,))


def plan(*order: int, tail: tuple[int, ...] = ()) -> Plan:
    """The plan that takes these layers of the first source."""
    return Plan(
        tuple(Take(BlockRef(0, i)) for i in order), tuple(Take(BlockRef(0, i)) for i in tail)
    )


def blend(a: int, b: int) -> Plan:
    """Two layers, the second a blend of layers `a` and `b`."""
    parents = (Take(BlockRef(0, a)), Take(BlockRef(0, b)))
    return Plan((Take(BlockRef(0, 0)), Blend(parents, "linear")))
