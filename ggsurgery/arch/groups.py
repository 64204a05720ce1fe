"""Key/value groups of attention: which models can lose some, and the keys after it.

A group is a key/value head with the query heads that read it. llama.cpp takes the length of a
head from embedding_length over head_count where no key states it (src/llama-model.cpp, 0c1e570),
so all lengths are written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArchitectureError, PlanError
from ..ggufio.types import Header, Value
from ..plan.groups import kept_groups
from ..plan.types import Plan, main_reference
from . import properties
from .asked import asked
from .dimensions import HEADS, KEY, KV_HEADS, ROPE, VALUE, dimensions

#: Shapes of the loader that follow the numbers of heads.
_SHAPES = {
    "attn_q.weight": (("embd", "q0"), ("embd", "q")),
    "attn_k.weight": (("embd", "k0"), ("embd", "k"), ("embd", "v0"), ("embd", "v")),
    "attn_v.weight": (("embd", "v0"), ("embd", "v"), ("embd", "k0")),
    "attn_output.weight": (("q0", "embd"), ("q", "embd"), ("o0", "embd"), ("o", "embd")),
}
#: Tensors of attention that no head is removed from.
_WHOLE = ("attn_norm", "attn_norm_2", "attn_post_norm", "attn_output.bias", "attn_output.scale")
_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
#: Architectures that derive more from the number of heads than shapes.
_ARCHITECTURES = {
    "refact": "the slopes of ALiBi follow the number of heads",
    "baichuan": "the slopes of ALiBi follow the number of heads",
}
#: Depths at which gemma's loader takes the scale from the number of heads (gemma 2 and 3 27B).
_SCALED_BY_HEADS = {"gemma2": 46, "gemma3": 62}


@dataclass(frozen=True, slots=True)
class Groups:
    """The heads of a model, the same in every layer.

    Args:
        key, value: the lengths of a head.
    """

    heads: int
    kv_heads: int
    key: int
    value: int


def groups(header: Header) -> Groups:
    """The key/value groups of a model.

    Raises:
        ArchitectureError: its attention cannot lose any.
    """
    arch, known = header.architecture, asked(header.architecture)
    if arch in _ARCHITECTURES:
        raise _refused(header, _ARCHITECTURES[arch])
    if _SCALED_BY_HEADS.get(arch) == header.n_layers:
        raise _refused(header, "llama.cpp takes the scale of attention from the number of heads")
    for suffix, shapes in _SHAPES.items():
        entry = known.get(f"blk.{{}}.{suffix}")
        if entry is None or entry.shape not in shapes:
            shape = "unknown" if entry is None else " × ".join(entry.shape)
            raise _refused(header, f"llama.cpp expects {suffix} of another size ({shape})")
    found: set[Groups] = set()
    for layer in range(header.n_layers):
        sizes = dimensions(header, layer)
        try:
            one = Groups(sizes["heads"], sizes["k"] // sizes["key"], sizes["key"], sizes["value"])
        except (KeyError, ZeroDivisionError):
            raise _refused(header, f"layer {layer} has no stated heads") from None
        _check_tensors(header, layer, one)
        found.add(one)
    if len(found) != 1:
        raise _refused(header, "its layers have unlike heads")
    return found.pop()


def _refused(header: Header, reason: str, tensor: str | None = None) -> ArchitectureError:
    return ArchitectureError(
        f"key/value groups of {header.architecture} cannot be removed: {reason}",
        file=header.path,
        tensor=tensor,
    )


def _check_tensors(header: Header, layer: int, one: Groups) -> None:
    tensors = header.layer_tensors(layer)
    for suffix in _SHAPES:
        if suffix not in tensors:
            raise _refused(header, "a layer lacks the tensor", f"blk.{layer}.{suffix}")
    for suffix, tensor in tensors.items():
        if not suffix.startswith("attn_") or suffix in _SHAPES or suffix.startswith(_WHOLE):
            continue
        single = suffix.endswith("scale") and tensor.n_elements == 1
        bias = suffix in ("attn_q.bias", "attn_k.bias", "attn_v.bias")
        norm = suffix in _NORMS and tensor.shape in ((one.key,), (one.key, 1))
        if not (single or bias or norm):
            raise _refused(header, "the tensor is of all heads", tensor.name)
    if one.kv_heads < 1 or one.heads % one.kv_heads:
        raise _refused(header, f"{one.heads} heads do not share {one.kv_heads} of keys and values")


def rewrite(headers: Sequence[Header], plan: Plan) -> dict[str, Value]:
    """The numbers of heads of the output, and the lengths that followed from them.

    Raises:
        ArchitectureError: layers would keep unlike numbers, or the attention cannot lose any.
        PlanError: an edit is of another number of groups.
    """
    shell = headers[plan.shell]
    known = {n: groups(header) for n, header in enumerate(headers)}
    counts: dict[int, int] = {}
    for number, block in enumerate(plan.stack):
        ref = main_reference(block)
        try:
            counts[number] = len(kept_groups(block, known[ref.source].kv_heads))
        except PlanError as error:
            raise error.at(file=shell.path, tensor=f"blk.{number}.attn_k.weight") from error
    if len(set(counts.values())) > 1:
        other = next(n for n in counts if counts[n] != counts[0])
        raise ArchitectureError(
            f"layer {other} would keep another number of key/value groups than layer 0",
            file=shell.path,
            expected=f"{counts[0]}: one number for all layers",
            found=counts[other],
        )
    one, count = known[plan.shell], counts[0]
    values = {
        HEADS: one.heads // one.kv_heads * count,
        KV_HEADS: count,
        KEY: one.key,
        VALUE: one.value,
    }
    if shell.get(f"{{arch}}.{ROPE}") is None:
        values[ROPE] = one.key
    return {
        properties.full_key(shell, k): properties.number(shell, k, v) for k, v in values.items()
    }
