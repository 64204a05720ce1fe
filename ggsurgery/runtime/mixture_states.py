"""Inputs and outputs of a layer's experts, with the states between the layers replaced.

l_out-(n-1) := forced    so that layer n computes on states of our own
ffn_moe_topk, _weights   the experts that a token uses, and their gates
ffn_moe_down             its input is what the experts' down projections multiply
l_out-n                  what the layer makes of it
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import binding
from .expert_nodes import GATE_SUMS, place
from .node_data import floats, integers

F32 = NDArray[np.float32]


@dataclass(slots=True)
class MixtureSeen:
    """One layer in one decode.

    Attributes:
        ids: int32 [tokens, k].
        gates: [tokens, k].
        features: what the down projections multiply, [tokens, k, n_features].
        output: the state behind the layer, [tokens, n_embd].
    """

    ids: NDArray[np.int32]
    gates: F32
    features: F32
    output: F32


class MixtureHook:
    """A hook of `Engine.set_hook`.

    Args:
        layers: those whose experts are read.

    Attributes:
        forced: the state that takes the place of each layer's output, by layer.
        seen: what the layers did in the last decode.
    """

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = frozenset(layers)
        self.forced: Mapping[int, F32] = {}
        self.seen: dict[int, MixtureSeen] = {}
        self._ids: dict[int, NDArray[np.int32]] = {}
        self._gates: dict[int, F32] = {}
        self._features: dict[int, F32] = {}

    def wants(self, node: binding.Tensor) -> bool:
        stem, layer = place(node)
        if stem == "l_out":
            return layer in self.forced or layer in self.layers
        named = stem in ("ffn_moe_topk", "ffn_moe_down") or stem.startswith("ffn_moe_weights")
        return layer in self.layers and named and stem not in GATE_SUMS

    def read(self, node: binding.Tensor) -> None:
        stem, layer = place(node)
        assert layer is not None
        if stem == "ffn_moe_topk":
            self._ids[layer] = integers(node)
        elif stem.startswith("ffn_moe_weights"):
            shape = self._ids[layer].shape
            self._gates[layer] = floats(node).reshape(shape).astype(np.float32)
        elif stem == "ffn_moe_down":
            if node.src[1] and node.src[2]:  # a product with chosen matrices, not with a scale
                self._features[layer] = floats(node.src[1].contents)[0].copy()
        else:
            self._state(node, layer)

    def _state(self, node: binding.Tensor, layer: int) -> None:
        if layer in self._ids and layer in self._gates and layer in self._features:
            self.seen[layer] = MixtureSeen(
                self._ids.pop(layer),
                self._gates.pop(layer),
                self._features.pop(layer),
                floats(node)[0, 0].copy(),
            )
        if layer in self.forced:
            data = np.ascontiguousarray(self.forced[layer], np.float32)
            base = binding.ggml()
            size = base.ggml_nbytes(ctypes.byref(node))
            assert data.nbytes == size, (data.shape, tuple(node.ne))
            base.ggml_backend_tensor_set(
                ctypes.byref(node), ctypes.c_void_p(data.ctypes.data), 0, size
            )
