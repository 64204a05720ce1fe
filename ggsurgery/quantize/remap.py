"""Importance-matrix entries that follow their layers through an operation.

A copied layer takes its entries along; a merged one gets its parents' sums and counts added
up, as if the tokens of all parents had run through it. Both are approximations: behind a cut
the activations differ. A matrix collected on the new model is better, this one is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arch.channels import DOWN
from ..errors import PlanError
from ..ggufio.header import read_header
from ..ggufio.imatrix import Entry, Imatrix, read_imatrix
from ..ggufio.types import BLOCK_NAME
from ..plan.channels import changes_channels, kept_channels
from ..plan.groups import changes_groups, is_narrower, kept_columns
from ..plan.ops import expert_edits, kept_experts
from ..plan.types import Block, BlockRef, Plan, references
from ..surgery.imatrix_lineage import Of, check_fits, followed, in_words, plan_between, with_origin


def remap(matrices: Sequence[Imatrix], plan: Plan) -> Imatrix:
    """The importance matrix of a plan's result.

    Args:
        matrices: one for each source of the plan.

    Raises:
        PlanError: a source without a matrix, or a layer of the plan without any entry.
    """
    if len(matrices) != plan.n_sources:
        raise PlanError(
            "every source needs its importance matrix",
            expected=f"{plan.n_sources} files",
            found=len(matrices),
        )
    layers = [_by_layer(m) for m in matrices]
    shell = matrices[plan.shell]
    entries = {n: e for n, e in shell.entries.items() if BLOCK_NAME.match(n) is None}
    for index, block in enumerate(plan.stack):
        parents = []
        for ref in references(block):
            found = layers[ref.source].get(ref.index)
            if found is None:
                raise PlanError(
                    f"the importance matrix has no entry for layer {ref.index}",
                    expected=f"layers {_range(layers[ref.source])}",
                    hint="Is it of the model that was operated on?",
                )
            parents.append(found)
        for suffix in parents[0]:
            pooled = _pool([p[suffix] for p in parents if suffix in p], suffix)
            entry = _of_kept_columns(_of_kept_experts(pooled, block), suffix, block)
            entries[f"blk.{index}.{suffix}"] = entry
    most = max((int(e.counts.max()) for e in entries.values()), default=0)
    size = shell.chunk_size
    chunks = most // size if size else shell.n_chunks
    return with_origin(replace(shell, entries=entries, n_chunks=chunks), None)


def matching(path: str | Path, src: str | Path, of: Of | None = None) -> tuple[Imatrix, str | None]:
    """An importance matrix for a file, with its entries remapped to the layers if needed.

    Args:
        of: what the user states about a matrix without a record of its model.

    Returns:
        The matrix, and a description of the change; None if it fits unchanged.

    Raises:
        PlanError: the matrix belongs to another model, or its model cannot be determined.
    """
    matrix, header = read_imatrix(path), read_header(src)
    between = followed(matrix, header, of)
    if not between:
        return matrix, None
    plan = plan_between(between, max(matrix.layers, default=-1) + 1, header)
    if plan is None:  # of several models, or of another number of layers
        check_fits(matrix, header, of)
        return matrix, None
    stays = all(references(b) == (BlockRef(0, i),) for i, b in enumerate(plan.stack))
    if stays and not any(expert_edits(b) or is_narrower(b) for b in plan.stack):
        return matrix, None
    change = f"its entries followed the layers through {in_words(between)}"
    return remap([matrix], plan), change


def _by_layer(matrix: Imatrix) -> dict[int, dict[str, Entry]]:
    found: dict[int, dict[str, Entry]] = {}
    for name, entry in matrix.entries.items():
        match = BLOCK_NAME.match(name)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = entry
    return found


def _pool(entries: list[Entry], suffix: str) -> Entry:
    if len({(e.sums.shape, e.counts.shape) for e in entries}) > 1:
        raise PlanError(f"merged layers whose entries {suffix} differ in size")
    if len(entries) == 1:
        return entries[0]
    sums = np.stack([e.sums for e in entries]).sum(axis=0, dtype=np.float64)
    return Entry(sums.astype(np.float32), np.stack([e.counts for e in entries]).sum(axis=0))


def _of_kept_experts(entry: Entry, block: Block) -> Entry:
    """The sums and counts of the experts that stay; an entry without experts stays whole."""
    if len(entry.counts) < 2 or not expert_edits(block):
        return entry
    kept = list(kept_experts(block, len(entry.counts)))
    return Entry(entry.sums[kept], entry.counts[kept])


def _of_kept_columns(entry: Entry, suffix: str, block: Block) -> Entry:
    """The columns that stay, of tensors whose inputs are channels or heads."""
    n_columns = entry.sums.shape[1]
    kept: Sequence[int]
    if suffix == DOWN and changes_channels(block):
        kept = kept_channels(block, n_columns)
    elif suffix == "attn_output.weight" and changes_groups(block):
        kept = kept_columns(block, n_columns)
    else:
        return entry
    return Entry(entry.sums[:, list(kept)], entry.counts)


def _range(layers: dict[int, dict[str, Entry]]) -> str:
    return f"{min(layers)} to {max(layers)}" if layers else "none"
