"""Qwen3-MoE in plain PyTorch: five layers, sixteen experts of which four are used.

The parameters have the names and shapes of the GGUF tensors (rows first), so that the export
is a copy and a pruned file can be compared with the same pruning done here.
"""

from __future__ import annotations

import math

import torch
from tokens import VOCABULARY
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu

WIDTH, LAYERS = 256, 5
HEADS, KV_HEADS, HEAD = 8, 2, 32
EXPERTS, USED, CHANNELS = 16, 4, 256
EPSILON, THETA = 1e-6, 10000.0


def _weight(*shape: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.02 * scale)


class Layer(nn.Module):
    """One block; `forward` returns the new states, the balancing loss and the experts chosen."""

    def __init__(self) -> None:
        super().__init__()
        depth = 1 / math.sqrt(2 * LAYERS)
        for name in ("attn_norm", "ffn_norm"):
            self.register_parameter(name, nn.Parameter(torch.ones(WIDTH)))
        for name in ("attn_q_norm", "attn_k_norm"):
            self.register_parameter(name, nn.Parameter(torch.ones(HEAD)))
        self.attn_q = _weight(HEADS * HEAD, WIDTH)
        self.attn_k = _weight(KV_HEADS * HEAD, WIDTH)
        self.attn_v = _weight(KV_HEADS * HEAD, WIDTH)
        self.attn_output = _weight(WIDTH, HEADS * HEAD, scale=depth)
        self.ffn_gate_inp = _weight(EXPERTS, WIDTH)
        self.ffn_gate_exps = _weight(EXPERTS, CHANNELS, WIDTH)
        self.ffn_up_exps = _weight(EXPERTS, CHANNELS, WIDTH)
        self.ffn_down_exps = _weight(EXPERTS, WIDTH, CHANNELS, scale=depth)

    def attention(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            linear(x, w).view(batch, length, -1, HEAD).transpose(1, 2)
            for w in (self.attn_q, self.attn_k, self.attn_v)
        )
        q = rotate(rms_norm(q, (HEAD,), self.attn_q_norm, EPSILON), rotation)
        k = rotate(rms_norm(k, (HEAD,), self.attn_k_norm, EPSILON), rotation)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(out.transpose(1, 2).reshape(batch, length, -1), self.attn_output)

    def experts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each token goes through its own four experts only; x is (tokens, WIDTH)."""
        probability = linear(x.float(), self.ffn_gate_inp).softmax(-1)
        weight, chosen = probability.topk(USED, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        counts = torch.bincount(chosen.flatten(), minlength=EXPERTS)
        order = chosen.flatten().argsort()
        token = order // USED
        rows = x[token].split(counts.tolist())
        parts = [
            linear(silu(linear(r, g)) * linear(r, u), d)
            for r, g, u, d in zip(
                rows, self.ffn_gate_exps, self.ffn_up_exps, self.ffn_down_exps, strict=True
            )
        ]
        scaled = torch.cat(parts) * weight.flatten()[order, None]
        out = torch.zeros_like(x).index_add(0, token, scaled.to(x.dtype))
        load = counts / counts.sum()
        balance = EXPERTS * (load * probability.mean(0)).sum()
        return out, balance, counts

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x = x + self.attention(rms_norm(x, (WIDTH,), self.attn_norm, EPSILON), rotation)
        z = rms_norm(x, (WIDTH,), self.ffn_norm, EPSILON)
        out, balance, counts = self.experts(z.reshape(-1, WIDTH))
        return x + out.view_as(x), balance, counts


class Network(nn.Module):
    """Tied embeddings; logits (batch, length, VOCABULARY)."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embd = _weight(VOCABULARY, WIDTH)
        self.blk = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.output_norm = nn.Parameter(torch.ones(WIDTH))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, mean balancing loss, tokens an expert received (LAYERS, EXPERTS)."""
        x, rotation = embedding(tokens, self.token_embd), angles(tokens.shape[1])
        balances, loads = [], []
        for layer in self.blk:
            x, balance, counts = layer(x, rotation)
            balances.append(balance)
            loads.append(counts)
        x = rms_norm(x, (WIDTH,), self.output_norm, EPSILON)
        return linear(x, self.token_embd), torch.stack(balances).mean(), torch.stack(loads)


def angles(length: int) -> tuple[Tensor, Tensor]:
    exponent = -torch.arange(0, HEAD, 2) / HEAD
    angle = torch.arange(length)[:, None] * THETA**exponent
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of the two halves of a head (NEOX order, as qwen3)."""
    cos, sin = rotation
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)
