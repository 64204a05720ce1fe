"""Statistics of an importance matrix by tensor and layer, as in llama-imatrix.

Per tensor, over the mean squared activations a_j = sums_j / count of its input columns:

    total    Σ a_j                     entropy   −Σ p_j log2 p_j with p = a / Σ a
    zd       share of columns more than one standard deviation above the mean
    cossim   cosine of the sums with those of the same tensor one layer before

A layer's figures are means over its tensors weighted by their columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..ggufio.imatrix import Entry, Imatrix
from ..ggufio.types import BLOCK_NAME

INACTIVE = 1e-5  # a column whose mean square is below this counts as not active


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Figures of one tensor; `cossim` is None for the first layer."""

    name: str
    layer: int | None
    kind: str
    columns: int
    total: float
    minimum: float
    maximum: float
    mean: float
    deviation: float
    active: float
    entropy: float
    entropy_share: float
    zd: float
    cossim: float | None
    experts_unseen: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Weighted means over a layer's tensors."""

    layer: int
    total: float
    zd: float
    cossim: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def tensor_statistics(matrix: Imatrix) -> list[TensorStatistics]:
    """Every tensor with data, the largest total first."""
    found = []
    for name, entry in matrix.entries.items():
        one = _statistics(name, entry, _cossim(matrix, name, entry))
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda s: -s.total)


def layer_statistics(tensors: Iterable[TensorStatistics]) -> list[LayerStatistics]:
    """Every layer, in order."""
    layers: dict[int, list[TensorStatistics]] = {}
    for one in tensors:
        if one.layer is not None:
            layers.setdefault(one.layer, []).append(one)
    result = []
    for layer, members in sorted(layers.items()):
        weights = [m.columns for m in members]
        n = sum(weights)
        result.append(
            LayerStatistics(
                layer,
                sum(w * m.total for w, m in zip(weights, members, strict=True)) / n,
                sum(w * m.zd for w, m in zip(weights, members, strict=True)) / n,
                sum(w * (m.cossim or 0.0) for w, m in zip(weights, members, strict=True)) / n,
            )
        )
    return result


def _statistics(name: str, entry: Entry, cossim: float | None) -> TensorStatistics | None:
    counts = np.broadcast_to(entry.counts, (len(entry.sums),)).astype(np.float64)
    seen = counts > 0
    if not seen.any():
        return None
    a = (entry.sums[seen].astype(np.float64) / counts[seen, None]).ravel()
    total, mean, n = float(a.sum()), float(a.mean()), a.size
    deviation = float(a.std())
    p = a[a > 0] / total if total > 0 else np.empty(0)
    entropy = float(-(p * np.log2(p)).sum())
    match = BLOCK_NAME.match(name)
    return TensorStatistics(
        name,
        int(match[1]) if match else None,
        (match[2] if match else name).removesuffix(".weight"),
        n,
        total,
        float(a.min()),
        float(a.max()),
        mean,
        deviation,
        float((a > INACTIVE).mean()),
        entropy,
        entropy / math.log2(n) if n > 1 else 0.0,
        float((a > mean + deviation).mean()) if deviation > 0 else 0.0,
        cossim,
        int((~seen).sum()),
    )


def _cossim(matrix: Imatrix, name: str, entry: Entry) -> float | None:
    match = BLOCK_NAME.match(name)
    if match is None:
        return None
    before = matrix.entries.get(f"blk.{int(match[1]) - 1}.{match[2]}")
    if before is None or before.sums.shape != entry.sums.shape:
        return None
    a, b = entry.sums.ravel().astype(np.float64), before.sums.ravel().astype(np.float64)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else None
