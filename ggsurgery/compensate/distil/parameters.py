"""The part of a network that training changes, and what it changed when it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from .network import Network, Tensor, load_torch
from .settings import Settings, is_trained

F32 = NDArray[np.float32]


class Parameters:
    """Trainable tensors of a network, which computes with them from then on.

    Attributes:
        names: of the file's tensors that change.
        tensors: the leaves that an optimizer changes.
    """

    def __init__(self, network: Network, settings: Settings) -> None:
        torch = load_torch()
        self.network = network
        self._rank = settings.rank
        self.names = [n for n, w in network.weights.items() if is_trained(n, w.ndim, settings.kind)]
        if not self.names:
            raise PlanError(f"the model has nothing to train with `trainable` {settings.trainable}")
        self._start = {n: network.weights[n] for n in self.names}
        self.tensors: list[Tensor] = []
        random = torch.Generator().manual_seed(settings.seed)
        for name in self.names:
            weight = network.weights[name]
            if self._rank:
                rows, columns = weight.shape
                a = torch.randn(self._rank, columns, generator=random) / columns**0.5
                pair = (a.to(weight.device), weight.new_zeros(rows, self._rank))
                network.adapters[name] = pair
                self.tensors += pair
            else:
                network.weights[name] = weight.clone()
                self.tensors.append(network.weights[name])
        for tensor in self.tensors:
            tensor.requires_grad_(True)

    @property
    def count(self) -> int:
        """Numbers that are trained."""
        return sum(int(t.numel()) for t in self.tensors)

    def copy(self) -> list[Tensor]:
        """The values as they are now."""
        return [t.detach().clone() for t in self.tensors]

    def set(self, values: list[Tensor]) -> None:
        """Put earlier values back."""
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor.data.copy_(value)

    def adapters(self) -> dict[str, tuple[F32, F32]]:
        """A [rank, columns] and B [rows, rank] of the low-rank updates by the weight's name."""
        return {n: (_array(a), _array(b)) for n, (a, b) in self.network.adapters.items()}

    def changes(self) -> dict[str, F32]:
        """What is to be added to each tensor of the file, float32 in numpy's shape."""
        torch = load_torch()
        with torch.no_grad():
            if self._rank:
                return {n: _array(b @ a) for n, (a, b) in self.network.adapters.items()}
            return {n: _array(self.network.weights[n] - self._start[n]) for n in self.names}


def _array(tensor: Tensor) -> F32:
    found: Any = tensor.detach().cpu().contiguous().numpy()
    return np.asarray(found, np.float32)
