"""The output of each expert of a mixture layer for the tokens that the router assigns to it.

The nodes of llama.cpp's `build_moe_ffn`, for k experts a token:

    ffn_moe_logits    r(x)     [tokens, n_experts]
    ffn_moe_topk      ids      int32 [tokens, k]
    ffn_moe_weights   g        [tokens, k], then _softmax, _norm, _scaled where the model has them
    ffn_moe_down      f(x)     [tokens, k, n_embd], then _scaled, _biased
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import binding
from .node_data import floats, integers

F64 = NDArray[np.float64]


@dataclass(slots=True)
class ExpertSums:
    """Sums over the tokens that each expert of one layer received, float64 [n_experts].

    Attributes:
        counts: tokens.
        saliency: Σ g ‖f(x)‖, with g of a token's experts summing to 1 (REAP).
        norms: Σ ‖f(x)‖ (EAN).
        largest: the largest magnitude in f(x).
        outputs: Σ g f(x), [n_experts, n_embd]; only where likeness is asked for.
        router: Σ r rᵀ over all tokens, [n_experts, n_experts]; the same.
    """

    n_experts: int
    counts: F64 = field(init=False)
    saliency: F64 = field(init=False)
    norms: F64 = field(init=False)
    largest: F64 = field(init=False)
    outputs: F64 | None = None
    router: F64 | None = None

    def __post_init__(self) -> None:
        self.counts, self.saliency, self.norms, self.largest = np.zeros((4, self.n_experts))

    def add(self, ids: NDArray[np.int32], gates: F64, norms: F64, largest: F64) -> None:
        """Tokens with their experts; every array is [tokens, k]."""
        gates = gates / np.maximum(gates.sum(axis=1, keepdims=True), 1e-30)
        flat = ids.reshape(-1)
        self.counts += np.bincount(flat, minlength=self.n_experts)
        self.saliency += np.bincount(flat, (gates * norms).reshape(-1), self.n_experts)
        self.norms += np.bincount(flat, norms.reshape(-1), self.n_experts)
        np.maximum.at(self.largest, flat, largest.reshape(-1))

    def add_likeness(
        self, ids: NDArray[np.int32], gates: F64, outputs: NDArray[np.float32], logits: F64
    ) -> None:
        """Outputs [tokens, k, n_embd] and the router's scores [tokens, n_experts]."""
        if self.outputs is None or self.router is None:
            self.outputs = np.zeros((self.n_experts, outputs.shape[2]))
            self.router = np.zeros((self.n_experts, self.n_experts))
        gates = gates / np.maximum(gates.sum(axis=1, keepdims=True), 1e-30)
        for expert in np.unique(ids):
            chosen = ids == expert
            self.outputs[expert] += gates[chosen] @ outputs[chosen]
        self.router += logits.T @ logits


class ExpertHook:
    """The hook of `Engine.set_hook`; `layers` is complete after `finish`.

    Args:
        likeness: add up what shows how alike two experts are, too.
    """

    def __init__(self, n_experts: int, *, likeness: bool = False) -> None:
        self.n_experts, self.likeness = n_experts, likeness
        self.layers: dict[int, ExpertSums] = {}
        self._ids: dict[int, NDArray[np.int32]] = {}
        self._gates: dict[int, F64] = {}
        self._outputs: dict[int, tuple[F64, F64]] = {}
        self._logits: dict[int, F64] = {}
        self._vectors: dict[int, NDArray[np.float32]] = {}

    def wants(self, node: binding.Tensor) -> bool:
        stem, layer = place(node)
        if layer is None or stem in GATE_SUMS:
            return False
        return stem.startswith(_WANTED) or (self.likeness and stem == "ffn_moe_logits")

    def read(self, node: binding.Tensor) -> None:
        stem, layer = place(node)
        assert layer is not None
        for other in [n for n in self._ids if n != layer]:
            self._add(other)
        if stem in ("ffn_moe_logits", "ffn_moe_topk"):
            self._add(layer)  # the batch before, where no other layer has experts
        if stem == "ffn_moe_logits":
            self._logits[layer] = floats(node)[0, 0].astype(np.float64)
        elif stem == "ffn_moe_topk":
            self._ids[layer] = integers(node)
        elif stem.startswith("ffn_moe_weights"):
            shape = self._ids[layer].shape
            self._gates[layer] = floats(node).reshape(shape).astype(np.float64)
        else:  # the last of the steps behind the projection counts
            output = floats(node)[0]
            norms = np.sqrt(np.einsum("tkd,tkd->tk", output, output, dtype=np.float64))
            self._outputs[layer] = norms, np.abs(output).max(axis=2).astype(np.float64)
            if self.likeness:
                self._vectors[layer] = output.copy()

    def finish(self) -> None:
        """Count what the last decode left."""
        for layer in list(self._ids):
            self._add(layer)

    def _add(self, layer: int) -> None:
        ids = self._ids.pop(layer, None)
        gates, outputs = self._gates.pop(layer, None), self._outputs.pop(layer, None)
        if ids is not None and gates is not None and outputs is not None:
            sums = self.layers.setdefault(layer, ExpertSums(self.n_experts))
            sums.add(ids, gates, *outputs)
            if layer in self._vectors and layer in self._logits:
                sums.add_likeness(ids, gates, self._vectors.pop(layer), self._logits.pop(layer))


_WANTED = ("ffn_moe_topk", "ffn_moe_weights", "ffn_moe_down")
#: Sums over a token's experts, which are not gates.
GATE_SUMS = ("ffn_moe_weights_sum", "ffn_moe_weights_sum_clamped")


def place(node: binding.Tensor) -> tuple[str, int | None]:
    """`ffn_moe_topk-3` as its name and layer; views and copies, ` (view)`, have no layer."""
    stem, _, layer = node.name.decode("utf-8", "replace").rpartition("-")
    return stem, int(layer) if layer.isdigit() else None
