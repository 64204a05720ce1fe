"""A plan, loaded: its logits of the windows, whichever way it was loaded."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.engine import Engine, Outputs
from ...runtime.protocols import Logits
from ..windows import Windows


class Candidate:
    """A plan, loaded. `decode` gives the logits of a window whichever way it was loaded.

    Attributes:
        engine: the loaded model; with kept states it holds only the last layers.
        windows: the texts.
        start: number of layers that were not computed again.
    """

    def __init__(
        self,
        engine: Engine,
        windows: Windows,
        states: Sequence[Logits] | None,
        start: int,
        route: str,
    ) -> None:
        self.engine, self.windows, self.states = engine, windows, states
        self.start, self.route = start, route

    @property
    def n_vocab(self) -> int:
        return self.engine.n_vocab

    def decode(self, index: int, *, logits: Outputs, copy: bool = True) -> Logits:
        """Logits of a window's tokens, float32 [n_out, n_vocab]."""
        return self.feed(index, slice(0, None), logits=logits, copy=copy)

    def feed(self, index: int, part: slice, *, logits: Outputs, copy: bool = False) -> Logits:
        """Logits of a part of a window that begins where the last one ended, or with 0."""
        if not part.start:
            self.engine.reset()
        if self.states is None:
            return self.engine.decode(self.windows.inputs[index][part], logits=logits, copy=copy)
        return self.engine.decode_embeddings(self.states[index][part], logits=logits, copy=copy)
