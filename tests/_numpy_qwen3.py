"""Qwen3, dense or a mixture, in float64 numpy, from a GGUF file read by gguf-py: an oracle."""

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

    arch = "qwen3"

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self.w: dict[str, F64] = {t.name: np.asarray(t.data, np.float64) for t in reader.tensors}

        def get(key: str) -> Any:
            return reader.fields[f"{self.arch}.{key}"].contents()

        self.n_layers = int(get("block_count"))
        self.heads = int(get("attention.head_count"))
        self.kv = int(get("attention.head_count_kv"))
        self.size = len(self.w["blk.0.attn_q_norm.weight"])
        self.eps = float(get("attention.layer_norm_rms_epsilon"))
        self.base = float(get("rope.freq_base"))
        self.used = int(get("expert_used_count")) if self.arch == "qwen3moe" else 0

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
        q = (h @ w["attn_q.weight"].T + w.get("attn_q.bias", 0)).reshape(n, self.heads, self.size)
        k = (h @ w["attn_k.weight"].T + w.get("attn_k.bias", 0)).reshape(n, self.kv, self.size)
        v = (h @ w["attn_v.weight"].T + w.get("attn_v.bias", 0)).reshape(n, self.kv, self.size)
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
        found = {"kqv_out": mixed, "ffn_inp": y, **self.feed_forward(w, f)}
        return found | {"l_out": y + found["ffn_out"]}

    def feed_forward(self, w: dict[str, F64], f: F64) -> dict[str, F64]:
        g = swiglu(f, w["ffn_gate.weight"], w["ffn_up.weight"])
        return {"ffn_swiglu": g, "ffn_out": g @ w["ffn_down.weight"].T}

    def logits(self, tokens: NDArray[Any]) -> F64:
        head = self.w.get("output.weight", self.w["token_embd.weight"])
        return self.last_hidden(tokens, range(self.n_layers)) @ head.T

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


class Qwen3Moe(Qwen3):
    """The mixture of experts: softmax over all experts, the best, shares that sum to 1."""

    arch = "qwen3moe"

    def feed_forward(self, w: dict[str, F64], f: F64) -> dict[str, F64]:
        scores = f @ w["ffn_gate_inp.weight"].T
        out = np.zeros((len(f), w["ffn_down_exps.weight"].shape[1]))
        for t, x in enumerate(f):
            best = np.argsort(-scores[t], kind="stable")[: self.used]
            gates = np.exp(scores[t, best] - scores[t].max())
            for expert, gate in zip(best, gates / gates.sum(), strict=True):
                g = swiglu(x, w["ffn_gate_exps.weight"][expert], w["ffn_up_exps.weight"][expert])
                out[t] += gate * (w["ffn_down_exps.weight"][expert] @ g)
        return {"ffn_out": out}


def swiglu(x: F64, gate: F64, up: F64) -> F64:
    opened = x @ gate.T
    return opened / (1 + np.exp(-opened)) * (x @ up.T)
