"""Choose the experts that stay, by a ranking, an importance matrix, or by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...arch.experts import mixture
from ...errors import FormatError, PlanError
from ...ggufio.imatrix import Imatrix
from ...ggufio.types import Header
from ...plan.text import format_layers, parse_layers
from .ranking import Method, Ranking

F64 = NDArray[np.float64]


def from_imatrix(matrix: Imatrix, header: Header) -> dict[int, F64]:
    """How many tokens each expert of each layer received, as an importance matrix counted them.

    Raises:
        FormatError: the matrix has no counts per expert, or counts of another model.
    """
    found = mixture(header)
    counts: dict[int, F64] = {}
    for layer in found.layers:
        for stem in ("ffn_down_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_gate_exps"):
            entry = matrix.entries.get(f"blk.{layer}.{stem}.weight")
            if entry is not None and len(entry.counts) == found.n_experts:
                counts[layer] = entry.counts.astype(np.float64)
                break
    missing = [n for n in found.layers if n not in counts]
    if len(missing) == len(found.layers):
        raise FormatError(
            "the importance matrix has no counts of the model's experts",
            file=matrix.path,
            expected=f"{found.n_experts} counts for blk.{missing[0]}.ffn_down_exps.weight",
            hint="Older .dat files have none: collect one with `ggsurgery imatrix`.",
        )
    return counts


def scores(ranking: Ranking, method: Method, names: Sequence[str] = ()) -> dict[int, F64]:
    """The score of each expert by layer; the higher, the more it is needed."""
    values = ranking.pooled(names).score(method)
    return dict(zip(ranking.layers, values, strict=True))


def random_scores(header: Header, seed: int) -> dict[int, F64]:
    """The control: random scores."""
    found, generator = mixture(header), np.random.default_rng(seed)
    return {layer: generator.random(found.n_experts) for layer in found.layers}


def choose(
    header: Header,
    by_layer: Mapping[int, F64],
    keep: int,
    protected: Mapping[int, Sequence[int]] | None = None,
    *,
    used: int | None = None,
) -> dict[int, tuple[int, ...]]:
    """The experts of each layer that stay: those with the highest scores, in their old order.

    Layers without scores (behind the trunk, or not in the ranking) take the scores of the nearest
    earlier layer that has some. If the router selects among groups, each group keeps the same
    number.

    Args:
        keep: number of experts kept in each layer.
        protected: experts that are kept regardless of their score.
        used: experts used per token; None keeps the model's value.

    Raises:
        PlanError: `keep` is impossible, or more experts are protected than stay.
    """
    found = mixture(header)
    least = max(2, used or found.n_used, 2 * found.n_groups if found.n_groups > 1 else 0)
    if not least <= keep <= found.n_experts or keep % found.n_groups:
        groups = f", a multiple of its {found.n_groups} groups" if found.n_groups > 1 else ""
        raise PlanError(
            "impossible number of experts to keep",
            file=header.path,
            expected=f"{least} to {found.n_experts}{groups}",
            found=keep,
        )
    chosen: dict[int, tuple[int, ...]] = {}
    last: F64 | None = None
    for layer in found.layers:
        last = by_layer.get(layer, last)
        if last is None:
            raise PlanError(
                f"the ranking has no scores for layer {layer}",
                file=header.path,
                expected=f"layers {format_layers(found.layers)}",
                found=format_layers(sorted(by_layer)) or "none",
            )
        values = last.copy()
        must = list((protected or {}).get(layer, ()))
        values[must] = np.inf
        chosen[layer] = _best(values, keep, found.n_groups)
        lost = set(must) - set(chosen[layer])
        if lost:
            raise PlanError(
                f"layer {layer}: more experts are protected than stay",
                file=header.path,
                expected=f"at most {keep // found.n_groups} a group",
                found=format_layers(sorted(must)),
            )
    return chosen


def _best(values: F64, keep: int, n_groups: int) -> tuple[int, ...]:
    size, kept = len(values) // n_groups, []
    for group in range(n_groups):
        part = values[group * size : (group + 1) * size]
        order = np.argsort(-part, kind="stable")[: keep // n_groups]
        kept += [group * size + int(e) for e in order]
    return tuple(sorted(kept))


def parse_count(text: str, header: Header) -> int:
    """The number of experts to drop from each layer, from `25%` or `4`.

    A share is rounded down to what the router's groups allow.

    Raises:
        PlanError: neither a number nor a share.
    """
    found = mixture(header)
    share = text.strip().removesuffix("%")
    try:
        if share == text.strip():
            return int(share)
        dropped = found.n_experts * float(share) / 100
    except (ValueError, OverflowError):
        raise PlanError(
            "not a number of experts", expected="such as 32 or 25%", found=repr(text)
        ) from None
    if not 0 <= dropped <= found.n_experts:
        raise PlanError("not a share of the experts", expected="0% to 100%", found=repr(text))
    return int(dropped) // found.n_groups * found.n_groups


def parse_protected(texts: Sequence[str], header: Header) -> dict[int, tuple[int, ...]]:
    """`3:0,7` protects experts 0 and 7 of layer 3, `0-5` experts 0 to 5 of every layer.

    Raises:
        PlanError: a layer without experts, or an expert that does not exist.
    """
    found = mixture(header)
    protected: dict[int, tuple[int, ...]] = {}
    for text in texts:
        layers, colon, experts = text.rpartition(":")
        numbers = parse_layers(experts)
        chosen = parse_layers(layers) if colon else found.layers
        for layer in chosen:
            if layer not in found.layers:
                known = format_layers(found.layers)
                raise PlanError(f"layer {layer} has no experts", expected=f"layers {known}")
            if wrong := [e for e in numbers if e >= found.n_experts]:
                raise PlanError(
                    f"expert {wrong[0]} does not exist", expected=f"0 to {found.n_experts - 1}"
                )
            protected[layer] = (*protected.get(layer, ()), *numbers)
    return protected
