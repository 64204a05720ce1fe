"""A language model in PyTorch, with its weights decoded from a GGUF file.

    tokens ─ embedding ─▶ x ─ layer 0 … ─▶ norm ─ output ─▶ logits
    layer:  x + attention(norm x)  →  y + feed-forward(norm y)

Weights keep the names of the file, so what training changes goes back under the same names.
Everything is float32 (llama.cpp rounds keys, values and activations further; a contract
test states the largest difference of the logits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...files.installation import require
from ...ggufio.reader import Source
from ...tensors.expr import Read
from ...tensors.read_rows import RowReader
from ...tensors.scales import belongs_to_weight, effective
from ...tensors.shape import n_rows
from .form import Form, form_of

#: torch.Tensor, which is not imported before it is needed.
Tensor = Any


def load_torch() -> Any:
    """The module torch.

    Raises:
        MissingExtraError: it is not installed.
    """
    return require("torch", "train", "training")


class Network:
    """A forward pass over one sequence.

    Args:
        form: what is computed.
        weights: by the file's tensor names, float32 in numpy's shape, on one device.

    Attributes:
        adapters: low-rank updates by the name of the weight: x·Aᵀ·Bᵀ is added to x·Wᵀ.
    """

    def __init__(self, form: Form, weights: Mapping[str, Tensor]) -> None:
        self._torch = load_torch()
        self.form = form
        self.weights: dict[str, Tensor] = dict(weights)
        self.adapters: dict[str, tuple[Tensor, Tensor]] = {}
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Network:
        """Read a model's weights.

        Raises:
            ArchitectureError: the file's architecture has no network here.
        """
        torch = load_torch()
        with Source(path) as source:
            form = form_of(source.header)
            reader, get = RowReader([source]), _getter(source)
            weights = {}
            for tensor in source.header.tensors:
                if belongs_to_weight(get, tensor.name):
                    continue
                expr = effective(get, tensor.name)
                assert expr is not None
                values = reader.values(expr, ((0, n_rows(tensor.shape)),))
                array = torch.from_numpy(values.reshape(tensor.shape[::-1]))
                weights[tensor.name] = array.to(device)
        return cls(form, weights)

    @property
    def head(self) -> Tensor:
        """The output matrix [n_vocab, width]."""
        return self.weights.get("output.weight", self.weights["token_embd.weight"])

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of states behind the final norm."""
        found = hidden @ self.head.T
        if (bias := self.weights.get("output.bias")) is not None:
            found = found + bias
        if cap := self.form.softcap:
            found = cap * self._torch.tanh(found / cap)
        return found

    def states(self, tokens: Tensor, *, checkpoint: bool = False) -> Tensor:
        """States behind the final norm, [n, width], of a sequence of token numbers.

        Args:
            checkpoint: keep only the input of each layer for the backward pass, which
                computes the rest once more.
        """
        x = self.weights["token_embd.weight"][tokens] * self.form.embedding_scale
        for index in range(self.form.n_layers):
            if checkpoint:
                from torch.utils.checkpoint import checkpoint as recompute

                x = recompute(self._layer, x, index, use_reentrant=False)
            else:
                x = self._layer(x, index)
        return self._norm(x, self.weights["output_norm.weight"])

    def _layer(self, x: Tensor, index: int) -> Tensor:
        at = f"blk.{index}."
        attended = self._attention(self._normed(x, f"{at}attn_norm"), index)
        y = x + self._normed(attended, f"{at}post_attention_norm")
        z = self._normed(y, f"{at}ffn_norm")
        out = self._experts(z, at) if f"{at}ffn_gate_inp.weight" in self.weights else None
        out = self._feed_forward(z, at) if out is None else out
        return y + self._normed(out, f"{at}post_ffw_norm")

    def _attention(self, x: Tensor, index: int) -> Tensor:
        torch, form, at, n = self._torch, self.form, f"blk.{index}.", len(x)
        parts = []
        for name, heads in (("q", form.heads), ("k", form.kv_heads), ("v", form.kv_heads)):
            part = self._linear(x, f"{at}attn_{name}").view(n, heads, form.head_size)
            if name != "v":
                part = self._rotated(self._normed(part, f"{at}attn_{name}_norm"), index)
            parts.append(part.repeat_interleave(form.heads // heads, 1).transpose(0, 1))
        window = form.windows[index]
        mask = None
        if window is not None and window < n:
            position = torch.arange(n, device=x.device)
            distance = position[:, None] - position[None, :]
            mask = (distance >= 0) & (distance < window)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            *parts, attn_mask=mask, is_causal=mask is None, scale=form.attention_scale
        )
        return self._linear(mixed.transpose(0, 1).reshape(n, -1), f"{at}attn_output")

    def _feed_forward(self, x: Tensor, at: str) -> Tensor:
        gated = self._activation(self._linear(x, f"{at}ffn_gate"))
        return self._linear(gated * self._linear(x, f"{at}ffn_up"), f"{at}ffn_down")

    def _experts(self, x: Tensor, at: str) -> Tensor:
        """Each token's chosen experts, weighted by their share of the chosen probabilities."""
        torch, w = self._torch, self.weights
        probabilities = torch.softmax(self._linear(x, f"{at}ffn_gate_inp"), -1)
        share, chosen = probabilities.topk(self.form.experts_used, -1)
        share = share / share.sum(-1, keepdim=True).clamp_min(6.103515625e-5)
        gate, up, down = (w[f"{at}ffn_{name}_exps.weight"] for name in ("gate", "up", "down"))
        out = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            token, place = (chosen == expert).nonzero(as_tuple=True)
            inputs = x[token]
            inner = self._activation(inputs @ gate[expert].T) * (inputs @ up[expert].T)
            out = out.index_add(0, token, (inner @ down[expert].T) * share[token, place, None])
        return out

    def _activation(self, x: Tensor) -> Tensor:
        functional = self._torch.nn.functional
        return functional.gelu(x, approximate="tanh") if self.form.gelu else functional.silu(x)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = f"{name}.weight", self.weights.get(f"{name}.bias")
        out = self._torch.nn.functional.linear(x, self.weights[weight], bias)
        if (adapter := self.adapters.get(weight)) is not None:
            a, b = adapter
            out = out + (x @ a.T) @ b.T
        return out

    def _normed(self, x: Tensor, name: str) -> Tensor:
        """Normalized with a weight of this name; `x` itself where the model has none."""
        weight = self.weights.get(f"{name}.weight")
        return x if weight is None else self._norm(x, weight)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        square = x.pow(2).mean(-1, keepdim=True)
        return x * self._torch.rsqrt(square + self.form.eps) * weight

    def _rotated(self, x: Tensor, index: int) -> Tensor:
        """Heads [n, heads, size] turned by their positions 0 … n − 1."""
        cos, sin = self._turns(len(x), index, x.device)
        if self.form.pairs == "halves":
            a, b = x.chunk(2, -1)
            return self._torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        a, b = x[..., 0::2], x[..., 1::2]
        return self._torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    def _turns(self, n: int, index: int, device: Any) -> tuple[Tensor, Tensor]:
        rotation = self.form.rotations[index]
        key = (n, self.form.rotations.index(rotation))
        if key not in self._tables:
            torch, size = self._torch, self.form.head_size
            pair = torch.arange(0, size, 2, dtype=torch.float64)
            frequency = rotation.scale * rotation.base ** (-pair / size)
            if (factors := self.weights.get("rope_freqs.weight")) is not None:
                frequency = frequency / factors.double().cpu()
            angle = torch.outer(torch.arange(n, dtype=torch.float64), frequency)[:, None, :]
            self._tables[key] = (angle.cos().float().to(device), angle.sin().float().to(device))
        return self._tables[key]


def _getter(source: Source) -> Callable[[str], Read | None]:
    def get(name: str) -> Read | None:
        tensor = source.header.by_name.get(name)
        return None if tensor is None else Read(0, tensor)

    return get
