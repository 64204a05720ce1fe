"""Experts masked in a loaded model: the router never chooses them, as if they were deleted.

The router's scores of the masked experts become −∞ in the graph itself, before the softmax, so
that the gates of the others equal the smaller model's. Where a model's selection adds a
bias to the gates (`exp_probs_b`), the biased scores are masked as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import EngineError
from . import binding
from .observe import read_bytes

#: Scores of experts, [n_experts, tokens], wherever the graph computes them again.
NODES = ("ffn_moe_logits", "ffn_moe_logits_biased", "ffn_moe_probs_biased")


class ExpertMask:
    """A hook of `Engine.set_hook`.

    Args:
        masked: experts that no token may choose, by layer.
    """

    def __init__(self, masked: Mapping[int, Sequence[int]]) -> None:
        self.masked = {n: np.asarray(e, np.intp) for n, e in masked.items() if len(e)}
        self.seen: set[int] = set()

    def check(self, path: Path) -> None:
        """Refuse a model whose graph did not show what was to be masked.

        Raises:
            EngineError: names the nodes.
        """
        if self.masked.keys() - self.seen:
            raise EngineError(
                "the model's graph does not show the scores of its router",
                file=path,
                expected="nodes ffn_moe_logits-N",
                hint="`ggsurgery experts delete` writes the smaller file.",
            )

    def wants(self, node: binding.Tensor) -> bool:
        stem, _, layer = node.name.decode("utf-8", "replace").rpartition("-")
        return stem in NODES and layer.isdigit() and int(layer) in self.masked

    def read(self, node: binding.Tensor) -> None:
        layer = int(node.name.decode("utf-8", "replace").rpartition("-")[2])
        self.seen.add(layer)
        base = binding.ggml()
        size = base.ggml_nbytes(ctypes.byref(node))
        raw = read_bytes(node)
        shape, strides = tuple(node.ne)[::-1], tuple(node.nb)[::-1]
        scores = np.ndarray(shape, np.float32, raw, strides=strides)
        scores[..., self.masked[layer]] = -np.inf
        data = (ctypes.c_char * size).from_buffer(raw)
        base.ggml_backend_tensor_set(ctypes.byref(node), data, 0, size)
