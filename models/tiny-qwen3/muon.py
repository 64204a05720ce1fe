"""Muon (Jordan et al. 2024) for the matrices of the layers, in float32 and batched.

torch.optim.Muon orthogonalizes in bfloat16 and one matrix at a time, which on a CPU without
fast bfloat16 costs as much as the training step itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

#: Coefficients of the quintic Newton–Schulz iteration and how often it runs.
A, B, C, ROUNDS = 3.4445, -4.7750, 2.0315, 5


def orthogonalize(g: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of a batch [n, rows, columns], approximately."""
    x = g / (g.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    flip = x.shape[1] > x.shape[2]
    x = x.mT if flip else x
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if flip else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized. Parameters are matrices or stacks [n, rows, columns] of them;
    equal shapes go together."""

    def __init__(self, params: Iterable[torch.Tensor], momentum: float = 0.95) -> None:
        super().__init__(list(params), {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                shapes[p.shape].append(p)
            for shape, members in shapes.items():
                moved = []
                for p in members:
                    state = self.state[p].setdefault("m", torch.zeros_like(p))
                    state.mul_(group["momentum"]).add_(p.grad)
                    moved.append(p.grad + group["momentum"] * state)
                rows, columns = shape[-2:]
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                updates = orthogonalize(torch.stack(moved).view(-1, rows, columns))
                for p, update in zip(members, updates.view(-1, *shape), strict=True):
                    p.sub_(size * update)
