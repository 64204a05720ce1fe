"""Hidden states of the base model between its layers, kept for the candidates.

    tokens ─▶ embedding ─▶ layer 0 ─▶ … ─▶ layer d−1 ─▶ states[d] ─▶ layer d ─▶ … ─▶ logits

A candidate that differs from the base from layer d on starts at states[d].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError
from ...files.progress import Progress
from ...runtime.binding import Tensor
from ...runtime.engine import Engine, Outputs
from ...runtime.observe import read_floats
from ..windows import Windows
from .candidate import Candidate
from .losses import window_nll

F32 = NDArray[np.float32]


@dataclass
class States:
    """`kept[d][i]`: input of layer d for window i, float32 [n_tokens, n_embd]."""

    kept: dict[int, list[F32]] = field(default_factory=dict)
    #: mean nll of each window under the base model, measured on the same pass
    base_nll: list[float] = field(default_factory=list)
    #: logits of the first window's last token, to check the reuse against
    probe: F32 | None = None

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for rows in self.kept.values() for a in rows)

    def start(self, depth: int) -> int:
        """The deepest kept boundary that is not beyond `depth`; 0 if there is none."""
        return max((d for d in self.kept if d <= depth), default=0)


def boundaries(n_layers: int, bytes_each: int, limit: int) -> list[int]:
    """Which boundaries fit into `limit` bytes: all inner ones, or evenly spaced ones.

    Example:
        >>> boundaries(8, 100, 300)
        [2, 4, 6]
    """
    inner = n_layers - 1
    room = min(inner, limit // max(1, bytes_each))
    return sorted({round((i + 1) * n_layers / (room + 1)) for i in range(room)})


def record(
    engine: Engine, windows: Windows, depths: list[int], progress: Progress | None = None
) -> States:
    """Decode every window once and keep the inputs of the layers `depths`.

    Raises:
        EngineError: the model's graph does not name its layers' outputs.
    """
    shapes = [(len(tokens), engine.n_embd) for tokens in windows.inputs]
    states = States({d: [np.empty(shape, np.float32) for shape in shapes] for d in depths})
    keeper = _Keeper(states.kept)
    engine.set_hook(keeper)
    base = _Whole(engine, windows)
    for index, shape in enumerate(shapes):
        keeper.begin(index)
        states.base_nll.append(window_nll(base, index))
        if index == 0:
            states.probe = base.last
        for depth, rows in keeper.filled.items():
            if rows != shape[0]:
                raise EngineError(
                    "no usable hidden states",
                    file=engine.path,
                    tensor=f"l_out-{depth - 1}",
                    expected=list(shape),
                    found=[rows],
                )
        if progress is not None:
            progress(index + 1, len(windows))
    return states


class _Keeper:
    """A hook that copies the layers' outputs to where they are kept, batch after batch."""

    def __init__(self, kept: dict[int, list[F32]]) -> None:
        self.kept = kept
        self.names = {f"l_out-{depth - 1}".encode(): depth for depth in kept}
        self.index = 0
        self.filled = dict.fromkeys(kept, 0)

    def begin(self, index: int) -> None:
        self.index = index
        self.filled = dict.fromkeys(self.kept, 0)

    def wants(self, node: Tensor) -> bool:
        return node.name in self.names

    def read(self, node: Tensor) -> None:
        depth = self.names[node.name]
        rows, at = read_floats(node), self.filled[depth]
        room = self.kept[depth][self.index][at : at + len(rows)]
        if room.shape == rows.shape:
            room[:] = rows
            self.filled[depth] = at + len(rows)


class _Whole(Candidate):
    """The base model as a candidate that remembers its last row of logits."""

    def __init__(self, engine: Engine, windows: Windows) -> None:
        super().__init__(engine, windows, None, 0, "file")
        self.last: F32 | None = None

    def feed(self, index: int, part: slice, *, logits: Outputs, copy: bool = False) -> F32:
        out = super().feed(index, part, logits=logits, copy=copy)
        if len(out):
            self.last = out[-1].copy()
        return out
