"""Hidden states of the base model between its layers, kept for the candidates.

    tokens ─▶ embedding ─▶ layer 0 ─▶ … ─▶ layer d−1 ─▶ states[d] ─▶ layer d ─▶ … ─▶ logits

A candidate that differs from the base from layer d on starts at states[d].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..runtime.engine import Engine
from .windows import Windows

F32 = NDArray[np.float32]
Progress = Callable[[int, int], object]


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
    from .windows import window_nll

    states = States({d: [] for d in depths})
    base = _Whole(engine, windows)
    names = {f"l_out-{d - 1}": d for d in depths}
    engine.observe(names)
    for index in range(len(windows)):
        states.base_nll.append(window_nll(base, index))  # type: ignore[arg-type]
        if index == 0:
            states.probe = base.last
        for name, depth in names.items():
            rows = engine.observed.get(name)
            if rows is None or rows.shape != (len(windows.inputs[index]), engine.n_embd):
                raise EngineError(
                    "no usable hidden states", file=engine.path, tensor=name,
                    expected=f"[{len(windows.inputs[index])}, {engine.n_embd}]",
                    found=None if rows is None else list(rows.shape),
                )  # fmt: skip
            states.kept[depth].append(rows)
        if progress is not None:
            progress(index + 1, len(windows))
    return states


class _Whole:
    """The base model seen as a candidate, remembering the last row of logits."""

    def __init__(self, engine: Engine, windows: Windows) -> None:
        self.engine, self.windows = engine, windows
        self.last: F32 | None = None

    def decode(self, index: int, *, logits: slice, copy: bool = True) -> F32:
        self.engine.reset()
        out = self.engine.decode(self.windows.inputs[index], logits=logits, copy=copy)
        self.last = out[-1].copy()
        return out
