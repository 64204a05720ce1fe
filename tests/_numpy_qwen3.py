"""Qwen3 in float64 numpy, from a GGUF file read by gguf-py: an oracle for hidden states."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Qwen3:
    """The forward pass of one sequence, written from the paper's equations."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self.w: dict[str, F64] = {t.name: np.asarray(t.data, np.float64) for t in reader.tensors}

        def get(key: str) -> Any:
            return reader.fields[f"qwen3.{key}"].contents()

        self.n_layers = int(get("block_count"))
        self.heads = int(get("attention.head_count"))
        self.kv = int(get("attention.head_count_kv"))
        self.size = int(get("attention.key_length"))
        self.eps = float(get("attention.layer_norm_rms_epsilon"))
        self.base = float(get("rope.freq_base"))

    def norm(self, x: F64, weight: F64) -> F64:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * weight

    def rope(self, x: F64) -> F64:
        half = self.size // 2
        angles = np.outer(np.arange(len(x)), self.base ** (-np.arange(half) / half))[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate(
            [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1
        )

    def layer(self, index: int, x: F64) -> dict[str, F64]:
        """Named as llama.cpp names the nodes: kqv_out, ffn_inp, ffn_swiglu, ffn_out, l_out."""
        w = {k.split(".", 2)[2]: v for k, v in self.w.items() if k.startswith(f"blk.{index}.")}
        n = len(x)
        h = self.norm(x, w["attn_norm.weight"])
        q = (h @ w["attn_q.weight"].T).reshape(n, self.heads, self.size)
        k = (h @ w["attn_k.weight"].T).reshape(n, self.kv, self.size)
        v = (h @ w["attn_v.weight"].T).reshape(n, self.kv, self.size)
        q = self.rope(self.norm(q, w["attn_q_norm.weight"]))
        k = self.rope(self.norm(k, w["attn_k_norm.weight"]))
        k, v = (np.repeat(t, self.heads // self.kv, axis=1) for t in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.size)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", p, v).reshape(n, -1)
        y = x + mixed @ w["attn_output.weight"].T
        f = self.norm(y, w["ffn_norm.weight"])
        gate = f @ w["ffn_gate.weight"].T
        g = gate / (1 + np.exp(-gate)) * (f @ w["ffn_up.weight"].T)
        m = g @ w["ffn_down.weight"].T
        return {"kqv_out": mixed, "ffn_inp": y, "ffn_swiglu": g, "ffn_out": m, "l_out": y + m}

    def states(self, tokens: NDArray[Any]) -> F64:
        """Input of every layer and output of the last, [n_layers + 1, n, width]."""
        x = self.w["token_embd.weight"][tokens]
        found = [x]
        for index in range(self.n_layers):
            x = self.layer(index, x)["l_out"]
            found.append(x)
        return np.stack(found)

    def last_hidden(self, tokens: NDArray[Any], layers: Iterable[int]) -> F64:
        """Behind the final norm, [n, width], with only some of the layers."""
        x = self.w["token_embd.weight"][tokens]
        for index in layers:
            x = self.layer(index, x)["l_out"]
        return self.norm(x, self.w["output_norm.weight"])
