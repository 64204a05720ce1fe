"""What depends on the number of layers: behaviours chosen by it, scalars derived from it,
tensors with one slab per layer, and keys and values shared between layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

from ..errors import ArchitectureError
from ..ggufio.constants import GGMLQuantizationType, GGUFValueType
from ..ggufio.types import Header, TensorInfo, Value
from ..plan.edits import params
from ..plan.text import format_layers
from ..plan.types import BlockRef
from ..tensors.expr import Apply, Expr, Read, Slice
from . import properties
from .layer_kinds import kv_start, n_tail
from .rulefile import RuleFile, SlabRule, SwitchRule
from .types import LayerKind

FOLDABLE = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)


def switched(rule: SwitchRule, header: Header, n_trunk: int) -> bool:
    """Whether llama.cpp makes this choice for a stack of `n_trunk` layers."""
    if rule.vocab and _vocab(header) != rule.vocab:
        return False
    return n_trunk in rule.counts


def switches(
    rules: RuleFile, headers: Sequence[Header], refs: Sequence[BlockRef], n_trunk: int, shell: int
) -> tuple[dict[str, Expr], list[str]]:
    """Tensors into which a changed behaviour is folded, and warnings.

    Raises:
        ArchitectureError: the behaviour changes and no weight can compensate for it.
    """
    tensors: dict[str, Expr] = {}
    warnings: list[str] = []
    for rule in rules.switch:
        after = switched(rule, headers[shell], n_trunk)
        for source in sorted({r.source for r in refs}):
            header = headers[source]
            before = switched(rule, header, header.n_layers - n_tail(header))
            if before == after or (rule.on == "enter" and before):
                continue
            if rule.action == "refuse":
                counts = " or ".join(map(str, rule.counts))
                raise ArchitectureError(
                    f"{rule.reason}; this output would have {n_trunk} layers",
                    file=header.path,
                    expected=f"{counts} layers" if before else f"not {counts} layers",
                    found=n_trunk,
                )
            factor = _scale(header, before) / _scale(header, after)
            folded, text = _fold(rule, header, refs, source, factor)
            tensors |= folded
            warnings.append(text)
    return tensors, warnings


def _vocab(header: Header) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return properties.count(header, "vocab_size", 0 if tokens is None else len(tokens))


def _scale(header: Header, by_width: bool) -> float:
    heads = properties.per_layer(header, "attention.head_count", 1) or [1]
    width = properties.count(header, "embedding_length") // max(1, heads[0])
    return 1 / sqrt(
        max(1, width if by_width else properties.count(header, "attention.key_length", width))
    )


def _fold(
    rule: SwitchRule, header: Header, refs: Sequence[BlockRef], source: int, factor: float
) -> tuple[dict[str, Expr], str]:
    """Scale one tensor of each layer by `factor`, if its type can represent the product."""
    if abs(factor - 1) < 1e-7:
        return {}, f"{rule.reason}; with this model's widths both choices are the same"
    main = rule.fold[0]
    tensors: dict[str, Expr] = {}
    for new, ref in enumerate(refs):
        if ref.source != source:
            continue
        own = header.layer_tensors(ref.index)
        folded = [own[name] for name in rule.fold if name in own]
        if main not in own or any(t.type not in FOLDABLE for t in folded):
            return {}, (
                f"{rule.reason}: attention scores change by a factor of {1 / factor:.4g}. "
                f"{main} is missing or quantized and cannot absorb the factor; start from an F16 "
                f"file."
            )
        for tensor in folded:
            tensors[f"blk.{new}.{tensor.suffix}"] = Apply(
                Read(source, tensor), "scale", params(factor=factor)
            )
    return tensors, f"{rule.reason}: {main} of every layer was scaled by {factor:.6g} instead"


# -- scalars derived from the layer count ------------------------------------------------


def _residual_scale(header: Header, n_trunk: int) -> Value:
    """minicpm's 1.4/√layers (src/models/minicpm.cpp)."""
    return Value.of(1.4 / sqrt(n_trunk), GGUFValueType.FLOAT32, order=header.order)


def _zero(header: Header, n_trunk: int) -> Value:
    """A rank of zero, llama.cpp's value if it does not read the key."""
    return Value.of(0, GGUFValueType.UINT32, order=header.order)


def _gating_by_depth(header: Header, n_trunk: int) -> Value:
    """deepseek2's default: sigmoid (2) for GLM-4.7-Flash's shape, else softmax (1)."""
    sigmoid = n_trunk in (47, 48) and _vocab(header) == 154880
    return Value.of(2 if sigmoid else 1, GGUFValueType.UINT32, order=header.order)


FORMULAS: dict[str, Callable[[Header, int], Value]] = {
    "1.4/sqrt(layers)": _residual_scale,
    "gating by depth": _gating_by_depth,
    "0": _zero,
}


def implied(rules: RuleFile, header: Header, n_trunk: int) -> dict[str, Value]:
    """Explicit keys for scalars that the loader would derive from the new layer count."""
    old = header.n_layers - n_tail(header)
    return {
        properties.full_key(header, rule.key): FORMULAS[rule.formula](header, old)
        for rule in rules.implied
        if old != n_trunk and properties.full_key(header, rule.key) not in header.metadata
    }


# -- one slab per layer --------------------------------------------------------------------


def slabs(
    rules: RuleFile, headers: Sequence[Header], refs: Sequence[BlockRef], shell: int
) -> dict[str, Expr]:
    """Tensors outside the layers, gathered slab by slab when layers move.

    Raises:
        ArchitectureError: slabs of two sources would be combined, or a slab does not consist of
            whole blocks.
    """
    found: dict[str, Expr] = {}
    for rule in rules.slab:
        header = headers[shell]
        tensor = header.by_name.get(rule.tensor)
        if tensor is None:
            continue
        n_old = header.n_layers - n_tail(header)
        order = [r.index for r in refs]
        if all(r.source == shell for r in refs) and order == list(range(n_old)):
            continue
        if foreign := next((r for r in refs if r.source != shell), None):
            raise ArchitectureError(
                "per-layer embeddings cannot be taken from two files",
                file=header.path,
                tensor=rule.tensor,
                found=f"layer {foreign.index} of {headers[foreign.source].path}",
                hint="Use layers of one file only.",
            )
        found[rule.tensor] = Slice(
            Read(shell, tensor), rule.axis, _ranges(rule, tensor, order, n_old)
        )
    return found


def _ranges(
    rule: SlabRule, tensor: TensorInfo, order: Sequence[int], n_old: int
) -> tuple[tuple[int, int], ...]:
    length = tensor.shape[rule.axis]
    if length % n_old:
        raise ArchitectureError(
            "slabs do not fit the layer count",
            tensor=tensor.name,
            expected=f"a multiple of {n_old} along axis {rule.axis}",
            found=length,
        )
    width = length // n_old
    return tuple((i * width, (i + 1) * width) for i in order)


# -- shared keys and values --------------------------------------------------------------


def kv_source(kind: LayerKind, start: int) -> int:
    """The layer whose keys and values a sharing layer reads (src/llama-model.cpp, reuse)."""
    return start - (2 if kind.attention == "window" else 1)


def shared_kv(
    rules: RuleFile,
    headers: Sequence[Header],
    refs: Sequence[BlockRef],
    wanted: Sequence[LayerKind],
    shell: int,
) -> dict[str, Value]:
    """The number of sharing layers, after checking that each still reads from the same layer.

    Raises:
        ArchitectureError: naming the layers that would read other keys and values.
    """
    rule = rules.shared_kv
    if rule is None:
        return {}
    header = headers[shell]
    sharing = [i for i, k in enumerate(wanted) if k.shared_kv]
    start = min(sharing, default=len(wanted))
    if sharing != list(range(start, len(wanted))):
        own = [i for i in range(start, len(wanted)) if i not in sharing]
        raise ArchitectureError(
            "layers with keys of their own must not follow layers that share them",
            file=header.path,
            found=f"source layers {format_layers([refs[i].index for i in own])}",
            hint=f"Layers from {kv_start(rules, header)} on share keys and values: keep them at "
            f"the end.",
        )
    for i in sharing:
        source = headers[refs[i].source]
        old_start = kv_start(rules, source)
        assert old_start is not None
        read_before = BlockRef(refs[i].source, kv_source(wanted[i], old_start))
        place = kv_source(wanted[i], start)
        if place < 0 or refs[place] != read_before:
            raise ArchitectureError(
                f"layer {refs[i].index} reads the keys and values of layer {read_before.index}, "
                "which would be removed or moved",
                file=source.path,
                hint=f"Keep layers {old_start - 2} and {old_start - 1} directly in front of the "
                f"first sharing layer.",
            )
    if rule.key:
        key = properties.full_key(header, rule.key)
        if properties.count(header, rule.key) != len(sharing):
            return {key: properties.number(header, rule.key, len(sharing))}
    return {}
