"""Mixtures of experts: which tensors have an expert axis, and which experts a plan keeps.

The expert axis is the outermost one of every such tensor, so an expert is one range of bytes.
llama.cpp reads one `expert_count` for all layers (src/llama-model.cpp, 0c1e570).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArchitectureError, PlanError
from ..ggufio.types import Header, TensorInfo, Value
from ..plan.ops import expert_edits, kept_experts
from ..plan.text import format_layers
from ..plan.types import Plan, main_reference
from ..tensors.parts import counts_experts
from . import properties

ROUTER = "ffn_gate_inp.weight"
#: Tensors that rule out deletion: expert numbers as data, and stacks of another count.
_REFUSED = {
    "ffn_gate_tid2eid": "it maps tokens to expert numbers",
    "ffn_gate_chexps": "its chunks are shared between experts",
}


@dataclass(frozen=True, slots=True)
class Mixture:
    """The experts of a model.

    Args:
        n_experts: experts of a layer.
        n_used: experts used per token, the maximum over the layers.
        n_groups: groups of neighbouring experts that the router selects first; 1 if none.
        layers: the layers that have experts.
    """

    n_experts: int
    n_used: int
    n_groups: int
    layers: tuple[int, ...]


def mixture(header: Header) -> Mixture:
    """The experts of a model.

    Raises:
        ArchitectureError: a dense model, or one whose experts cannot be deleted.
    """
    arch = header.architecture
    count = header.number(f"{arch}.expert_count") or 0
    layers = tuple(n for n in range(header.n_layers) if ROUTER in header.layer_tensors(n))
    if count < 2 or not layers:
        raise ArchitectureError(
            "the model is not a mixture of experts",
            file=header.path,
            expected=f"{arch}.expert_count of 2 or more, and tensors blk.N.{ROUTER}",
            found=f"{count} experts" if layers else "no router",
        )
    for layer in layers:
        for suffix in header.layer_tensors(layer):
            reason = _REFUSED.get(suffix.partition(".")[0])
            if reason is not None:
                raise ArchitectureError(
                    f"experts of {arch} cannot be deleted: {reason}",
                    file=header.path,
                    tensor=f"blk.{layer}.{suffix}",
                )
    used = header.get("{arch}.expert_used_count")
    most = max((n for n in used if type(n) is int), default=0) if isinstance(used, list) else used
    groups = header.number(f"{arch}.expert_group_count") or 1
    return Mixture(count, most if type(most) is int else 0, groups, layers)


def expert_tensors(header: Header, layer: int) -> dict[str, TensorInfo]:
    """The tensors of a layer whose outermost axis is the expert axis, by suffix.

    Raises:
        ArchitectureError: one of them has another size along that axis.
    """
    arch = header.architecture
    count = header.number(f"{arch}.expert_count")
    found = {s: t for s, t in header.layer_tensors(layer).items() if counts_experts(s)}
    single = {s for s, t in found.items() if s.endswith("scale") and t.n_elements == 1}
    for suffix, tensor in found.items():
        if suffix not in single and tensor.shape[-1] != count:
            raise ArchitectureError(
                "the tensor does not have one part per expert",
                file=header.path,
                tensor=tensor.name,
                expected=f"{count} along its last axis ({arch}.expert_count)",
                found=list(tensor.shape),
            )
    return {s: t for s, t in found.items() if s not in single}


def rewrite(headers: Sequence[Header], plan: Plan) -> dict[str, Value]:
    """`expert_count` of the output; empty if no expert is deleted.

    Raises:
        ArchitectureError: layers keep different numbers, fewer than a token uses, or different
        numbers in the groups of the router.
        PlanError: an edit names an expert or a layer that has none.
    """
    if not any(expert_edits(block) for block in plan.stack):
        return {}
    shell = headers[plan.shell]
    kept: dict[int, tuple[int, ...]] = {}
    for number, block in enumerate(plan.stack):
        ref = main_reference(block)
        header = headers[ref.source]
        found = mixture(header)
        if ref.index in found.layers:
            expert_tensors(header, ref.index)
            try:
                kept[number] = kept_experts(block, found.n_experts)
            except PlanError as error:
                raise error.at(file=header.path, tensor=f"blk.{ref.index}.{ROUTER}") from error
        elif expert_edits(block):
            raise _no_experts(number, header, found)
    before = mixture(shell)
    _check_counts(shell, before, {n: len(e) for n, e in kept.items()})
    if before.n_groups > 1:
        for number, experts in kept.items():
            _check_groups(shell, before, number, experts)
    count = len(next(iter(kept.values())))
    key = properties.full_key(shell, "expert_count")
    return {key: properties.number(shell, "expert_count", count)}


def masked_experts(header: Header, plan: Plan) -> dict[int, tuple[int, ...]]:
    """The experts of each layer of a model that a plan of all its layers deletes.

    The layers may keep different numbers here, although a file cannot.

    Raises:
        ArchitectureError: a layer keeps fewer than a token uses.
        PlanError: an edit names an expert or a layer that has none.
    """
    found = mixture(header)
    masked: dict[int, tuple[int, ...]] = {}
    for layer, block in enumerate(plan.stack):
        if not expert_edits(block):
            continue
        if layer not in found.layers:
            raise _no_experts(layer, header, found)
        kept = kept_experts(block, found.n_experts)
        _check_counts(header, found, {layer: len(kept)})
        masked[layer] = tuple(e for e in range(found.n_experts) if e not in set(kept))
    return masked


def _no_experts(layer: int, header: Header, found: Mixture) -> PlanError:
    return PlanError(
        f"layer {layer} has no experts",
        file=header.path,
        expected=f"layers {format_layers(found.layers)}",
    )


def _check_counts(shell: Header, before: Mixture, counts: dict[int, int]) -> None:
    first, *_ = counts.values()
    for layer, count in counts.items():
        if count != first:
            raise ArchitectureError(
                f"layer {layer} would keep another number of experts than layer {min(counts)}",
                file=shell.path,
                expected=f"{first}: llama.cpp reads one expert_count for all layers",
                found=count,
            )
    least = max(2, before.n_used)
    if first < least:
        raise ArchitectureError(
            "fewer experts than the model needs",
            file=shell.path,
            expected=f"at least {least}: each token uses {before.n_used}",
            found=first,
            hint="Lower expert_used_count first: `ggsurgery experts delete --used K`.",
        )


def _check_groups(shell: Header, before: Mixture, layer: int, experts: tuple[int, ...]) -> None:
    """The router splits the experts into groups of one size, in their order."""
    size = before.n_experts // before.n_groups
    counts = [sum(e // size == g for e in experts) for g in range(before.n_groups)]
    if len(set(counts)) > 1 or counts[0] < 2 or list(experts) != sorted(experts):
        raise ArchitectureError(
            f"layer {layer}: the router selects among {before.n_groups} groups of experts",
            file=shell.path,
            expected="the same number of experts (at least 2) from each group, in order",
            found=f"{', '.join(map(str, counts))} experts per group",
        )
