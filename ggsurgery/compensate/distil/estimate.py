"""What a training will take, before it starts: memory by counting, time by one measured window."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .loss import SLICE_BYTES
from .network import Network, load_torch
from .parameters import Parameters

F32_BYTES = 4
#: Of a trained number: its gradient, two moments of AdamW, the best value so far.
STATES = 4


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training takes.

    Attributes:
        seconds: of training; measurements on held-out windows come on top.
        n_bytes: of memory, on the device.
        trained: how many numbers are trained.
        steps: updates of the weights.
        recompute: whether layers are computed twice to save memory.
    """

    device: str
    seconds: float
    n_bytes: int
    trained: int
    steps: int
    recompute: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def memory(networks: list[Network], parameters: Parameters, n_ctx: int, *, recompute: bool) -> int:
    """Bytes that weights, optimizer and the states of one window take."""
    tensors = {id(w): w for network in networks for w in network.weights.values()}
    weights = sum(int(w.numel()) for w in tensors.values())
    form = networks[-1].form
    # what the backward pass of a layer needs: inputs and outputs of its matrices, norms, products
    inner = sum(
        int(w.shape[0])
        for name, w in networks[-1].weights.items()
        if name.startswith("blk.0.") and w.ndim == 2
    )
    within = n_ctx * (3 * inner + 6 * form.width)
    kept = n_ctx * form.width * form.n_layers + within if recompute else within * form.n_layers
    logits = 6 * SLICE_BYTES
    return F32_BYTES * (weights + STATES * parameters.count + kept) + logits


def free_memory(device: str) -> int | None:
    """Bytes that are free on the device; None where the system does not say."""
    if device == "cuda":
        torch: Any = load_torch()
        return int(torch.cuda.mem_get_info()[0])
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
