"""Warnings: one sentence each, the same from the library, in the commands and in `run`.

Every function returns its warnings, an empty list where there are none. Fields of a request
are in backquotes; a command shows them as flags, `run` as keys of the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..ggufio.header import read_header

if TYPE_CHECKING:  # a command loads only what it uses
    from ..compensate.chain import Fit
    from ..find.influence import Influence
    from ..ggufio.imatrix import Imatrix
    from ..ggufio.types import Header
    from ..release.bundle import Bundle
    from ..runtime.quantize_plan import QuantizeResult


def of_context(file: Path, n_ctx: int) -> list[str]:
    """Warn of a context that is larger than the one the model was trained with."""
    trained = read_header(file).number("{arch}.context_length")
    if trained is None or not 0 < trained < n_ctx:
        return []
    return [
        f"{file}: `ctx` {n_ctx} is more than the context the model was trained with "
        f"({trained:,} tokens)"
    ]


def of_prompts(file: Path, longest: int, trained: int) -> list[str]:
    """Warn of prompts that are longer than the context the model was trained with."""
    if not 0 < trained < longest:
        return []
    return [
        f"{file}: the longest prompt has {longest:,} tokens, more than the context the model "
        f"was trained with ({trained:,})"
    ]


def of_truncated(n_truncated: int, n_ctx: int) -> list[str]:
    """Warn of prompts that lost their beginning."""
    if not n_truncated:
        return []
    return [f"{n_truncated} prompts were longer than `ctx` {n_ctx} and lost their beginning"]


def of_limit(limit: int | None) -> list[str]:
    """Warn of a suite that asks fewer questions than it has."""
    return [] if limit is None else [f"`limit` {limit}: a trial, not a result"]


def of_fits(fits: Sequence[Fit]) -> list[str]:
    """Of corrections that learned their tokens by heart."""
    return [
        f"layer {fit.number}: the correction makes tokens that it was not fitted on worse: "
        "give more `tokens`, or more `ridge`"
        for fit in fits
        if fit.overfits
    ]


def of_loss(before: float, after: float, where: str = "on the calibration text ") -> list[str]:
    """Warn of a cut that leaves no usable model."""
    from ..release.sections import HOPELESS

    if after <= HOPELESS * before:  # false for NaN
        return []
    return [
        f"{where}the cut model's perplexity is {after / before:.1f} times the uncut one's: it is "
        "not usable without further training"
    ]


def of_quantized(result: QuantizeResult) -> list[str]:
    """Warn of tensors without an entry in the importance matrix, and of separate scales."""
    lacking = [n for n in result.without_imatrix if n.startswith("blk.")]
    if not lacking:
        return list(result.warnings)
    names = ", ".join(lacking[:5])
    return [f"{len(lacking)} tensors have no entry in the imatrix: {names} …", *result.warnings]


def of_fallbacks(result: QuantizeResult) -> list[str]:
    """Warn of tensors whose rows no block of the wanted type divides."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    for t in result.fallbacks:
        groups.setdefault((t.wanted or "", t.new, t.shape[0]), []).append(t.name)
    found = []
    for (wanted, new, columns), names in groups.items():
        kinds = sorted({n.split(".", 2)[-1] if n.startswith("blk.") else n for n in names})
        found.append(
            f"{result.ftype}: {len(names)} tensors with rows of {columns} cannot be {wanted} and "
            f"became {new}: {', '.join(kinds)}"
        )
    return found


def of_types(result: QuantizeResult) -> list[str]:
    """Remarks on types: fallbacks, and scales that were multiplied in."""
    notes = of_fallbacks(result)
    if result.folded_scales:
        folded = f"{result.folded_scales} separate scales are multiplied into their weights"
        notes.append(f"{result.ftype}: {folded}")
    return notes


def of_sink(found: Influence) -> list[str]:
    """Warn of a layer that no small influence makes safe to cut."""
    if found.sink is None:
        return []
    return [
        f"layer {found.sink} makes the attention sink (the first position's norm grows to "
        f"{found.first_norms[found.sink]:.0f}, the others' is {found.norms[found.sink]:.0f}): "
        "cutting it usually breaks the model, however small its influence"
    ]


def of_imatrix(matrix: Imatrix) -> list[str]:
    """Warn of experts that the text did not reach."""
    unseen = sum(int((e.counts == 0).sum()) for e in matrix.entries.values())
    return [f"{unseen} expert matrices saw no token; use a longer text"] if unseen else []


def of_rounding(types: Sequence[str]) -> list[str]:
    """Warn of trained tensors that are stored in few bits."""
    if not types:
        return []
    return [
        f"trained tensors are rounded to {', '.join(types)} again, which takes back most of the "
        "training below 8 bits: train an F16 file and quantize the result, or set `out_type` to f16"
    ]


def of_bundle(bundle: Bundle) -> list[str]:
    """Warn of tokenizer findings, foreign results, and what Ollama's template loses."""
    lost = (
        f"TEMPLATE loses {name}, which the file's own chat template offers"
        for name in bundle.chat.lost
    )
    return [*bundle.warnings, *lost]


def of_template(text: str, header: Header) -> list[str]:
    """The errors that `lint` would report for this template with this model's vocabulary."""
    from ..chat.lint import lint
    from ..chat.vocabulary import Vocabulary

    faults = [f for f in lint(text, Vocabulary.find(header)).findings if f.level == "error"]
    if not faults:
        return []
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return [f"the template {faults[0].message}{more}; `ggsurgery template lint` shows all"]
