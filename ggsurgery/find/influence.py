"""What each layer does to the hidden state, from one forward pass.

block influence    1 − mean_t cos(x_t, y_t)            (Men et al. 2024, ShortGPT, Eq. 1)
angular distance   arccos(cos(x^(l), x^(l+n))) / π     (Gromov et al. 2024, at the last token)

x^(l) is the input of layer l, so x^(l+n) is the output of the n layers l … l+n−1: the distance of a
span is how far its removal moves the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..files.progress import Progress
from ..measure.sink import find_sink
from ..measure.windows import Windows
from ..runtime.engine import Engine

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Names that llama.cpp's graphs give the input of layer 0, the last step of it first.
INPUTS = ("inp_scaled", "inp_norm", "embd")


@dataclass(frozen=True)
class Influence:
    """Figures of a model's layers over a text.

    Attributes:
        block: block influence of each layer, float64 [n_layers]; 0 means it changes nothing.
        block_stderr: standard errors over windows, NaN with a single window.
        angular: `angular[l, n]` is the distance of the n layers from l on, in units of π
            radians (0 equal, 0.5 orthogonal), float64 [n_layers, n_layers + 1]; NaN where
            the span passes the end.
        norms: mean norm of each layer's output, without the first position.
        first_norms: the same of the first position alone.
        sink: the layer that makes the first position's norm explode, None without one.
        tokens: which tokens `angular` was measured at.
        n_windows, n_tokens: what it was measured on.
    """

    file: Path
    block: F64
    block_stderr: F64
    angular: F64
    norms: F64
    first_norms: F64
    sink: int | None
    tokens: Literal["last", "all"]
    n_windows: int
    n_tokens: int

    @property
    def n_layers(self) -> int:
        return len(self.block)

    def ranked(self) -> list[int]:
        """Layers from the least influential to the most."""
        return [int(i) for i in np.argsort(self.block, kind="stable")]

    def spans(self, n: int) -> list[tuple[int, float]]:
        """First layer and angular distance of every span of `n` layers, smallest first.

        Raises:
            EngineError: the span does not exist.
        """
        if not 1 <= n <= self.n_layers:
            raise EngineError(
                "no such span", expected=f"1 to {self.n_layers} layers", found=n, file=self.file
            )
        column = self.angular[: self.n_layers - n + 1, n]
        return [(int(i), float(column[i])) for i in np.argsort(column, kind="stable")]

    def cuts_sink(self, first: int, n: int) -> bool:
        """Whether the layer that makes the attention sink is among `n` layers from `first` on."""
        return self.sink is not None and first <= self.sink < first + n

    def to_json(self, span: int | None = None) -> dict[str, Any]:
        layers = [
            {
                "layer": i,
                "influence": float(self.block[i]),
                "stderr": None if np.isnan(self.block_stderr[i]) else float(self.block_stderr[i]),
                "angular": float(self.angular[i, 1]),
                "norm": float(self.norms[i]),
                "first_norm": float(self.first_norms[i]),
            }
            for i in range(self.n_layers)
        ]
        document: dict[str, Any] = {
            "file": str(self.file),
            "windows": self.n_windows,
            "tokens": self.n_tokens,
            "angular_at": self.tokens,
            "sink": self.sink,
            "layers": layers,
        }
        if span is not None:
            document["spans"] = [
                {
                    "first": first,
                    "last": first + span - 1,
                    "angular": distance,
                    "cuts_sink": self.cuts_sink(first, span),
                }
                for first, distance in self.spans(span)
            ]
        return document


def influence(
    engine: Engine,
    windows: Sequence[NDArray[np.int32]],
    *,
    tokens: Literal["last", "all"] = "last",
    progress: Progress | None = None,
) -> Influence:
    """Measure every layer on some windows of tokens.

    Args:
        engine: the loaded model; its context must hold the longest window.
        windows: int32 [n] each; they include BOS if the model needs it.
        tokens: at which tokens the angular distance is taken: the last of each window, as
            published, or all.

    Returns:
        The figures; memory is the hidden states of one window.

    Raises:
        EngineError: the model's graph does not name its layers' outputs, or gives NaN.
    """
    n = engine.n_layer
    per_window: list[F64] = []
    angles = np.zeros((n + 1, n + 1))
    norms, first_norms = np.zeros(n), np.zeros(n)
    for number, states in enumerate(hidden_states(engine, windows)):
        sizes = np.linalg.norm(states, axis=2)  # [n + 1, tokens]
        unit = states / np.maximum(sizes, 1e-30)[:, :, None]
        cos = np.einsum("ltd,ltd->lt", unit[:-1], unit[1:], dtype=np.float64)
        per_window.append(1 - cos.mean(axis=1))
        angles += _angles(unit if tokens == "all" else unit[:, -1:])
        norms += sizes[1:, 1:].mean(axis=1)
        first_norms += sizes[1:, 0]
        if progress is not None:
            progress(number + 1, len(windows))
    count = len(per_window)
    values = np.stack(per_window)
    stderr = values.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(n, np.nan)
    angular = np.full((n, n + 1), np.nan)
    for layer in range(n):
        angular[layer, : n - layer + 1] = angles[layer, layer:] / count
    norms, first_norms = norms / count, first_norms / count
    return Influence(
        engine.path,
        values.mean(axis=0),
        stderr,
        angular,
        norms,
        first_norms,
        find_sink(norms, first_norms),
        tokens,
        count,
        sum(len(w) for w in windows),
    )


def hidden_states(engine: Engine, windows: Sequence[NDArray[np.int32]]) -> Iterator[F32]:
    """Inputs of every layer and the output of the last, float32 [n_layers + 1, n, n_embd].

    Raises:
        EngineError: the graph does not name them, or they are not finite.
    """
    outputs = [f"l_out-{i}" for i in range(engine.n_layer)]
    engine.observe([*INPUTS, *outputs])
    for window in windows:
        engine.reset()
        engine.decode(window, logits="all", copy=False)
        seen = engine.observed
        first = next((name for name in INPUTS if name in seen), None)
        missing = [name for name in outputs if name not in seen]
        width = None if first is None else seen[first].shape
        missing += [name for name in outputs if name in seen and seen[name].shape != width]
        if first is None or missing:
            raise EngineError(
                "this architecture's graph does not name its hidden states",
                file=engine.path,
                expected="embd and l_out-N of one shape",
                found=f"no {missing[0] if missing else 'embd'}",
                hint="`ggsurgery scan` measures layers without looking inside.",
            )
        states = np.stack([seen[first], *(seen[name] for name in outputs)])
        if not np.isfinite(states).all():
            layer = int(np.argmax(~np.isfinite(states).all(axis=(1, 2))))
            raise EngineError(
                "the hidden states are not numbers",
                file=engine.path,
                tensor=f"blk.{max(0, layer - 1)}.*",
                hint="`ggsurgery verify` checks the file.",
            )
        yield states


def _angles(unit: F32) -> F64:
    """Mean angle in units of π between all pairs of states, [n + 1, n + 1]."""
    total = np.zeros((unit.shape[0], unit.shape[0]))
    for token in range(unit.shape[1]):
        rows = unit[:, token].astype(np.float64)
        total += np.arccos(np.clip(rows @ rows.T, -1.0, 1.0))
    result: F64 = total / (np.pi * unit.shape[1])
    return result


def influence_of_file(
    path: Path,
    text: str,
    n_ctx: int,
    n_windows: int | None,
    tokens: Literal["last", "all"] = "last",
    n_threads: int | None = None,
    parse_special: bool = False,
    progress: Progress | None = None,
) -> Influence:
    """Open a file and measure it; made to be run by `runtime.worker.run`.

    Args:
        n_windows: windows of the text; None takes all.
    """
    size = max(64, n_ctx)
    with Engine.open(path, n_ctx=size, n_batch=size, n_threads=n_threads) as engine:
        windows = Windows.of_text(engine, text, n_ctx, n_windows, parse_special=parse_special)
        return influence(engine, windows.inputs, tokens=tokens, progress=progress)
