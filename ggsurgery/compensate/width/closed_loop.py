"""What goes into a layer's `ffn_down`, measured on the model as far as it is pruned already.

The layers of a plan all have one width, or llama.cpp would not load them; so the chain's plan
is pruned everywhere from the start, and a whole layer is run alone on the states in front of it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from ...plan.heal import PROJECTION, Place
from .. import nodes
from ..chain import Chain
from ..regression import Gram


class Narrowing(Chain):
    """A chain whose layers are chosen one after the other, each on the states that it will get."""

    def gram(self, place: Place) -> Gram:
        """Σ w h hᵀ of a layer that still has all its channels.

        Where states cannot be fed, the layers in front have all their channels too.
        """
        layer, identity = place.position, self.session.identity
        fed = self._feeds and layer > 0
        if fed:
            self._advance(layer)
        at = self.at
        names = (*nodes.INPUTS[PROJECTION], "ffn_inp", "ffn_out", "l_out")
        new_uncut = self._states() if self._feeds else None
        sums: Gram | None = None
        with ExitStack() as stack:
            begin, state = (layer, at.now) if fed else (0, None)
            watched = [(name, layer) for name in names]
            here = stack.enter_context(self._running(identity, begin, layer + 1, state, watched))
            uncut = here
            if fed:
                run = self._running(identity, at.reached, layer + 1, at.uncut, [("l_out", layer)])
                uncut = stack.enter_context(run)
            for index in range(len(self.session.windows)):
                seen = {name: rows for (name, _), rows in here(index).items()}
                shown = uncut(index) if fed else {("l_out", layer): seen["l_out"]}
                wanted = self._shown(shown, layer)
                if new_uncut is not None:
                    new_uncut.put(index, wanted)
                if index < self.n_fit:
                    features = nodes.features_of(self.session, layer, seen, PROJECTION)
                    sums = sums or Gram(features.shape[1], self.settings.first)
                    sums.add(features, wanted)
                self._tick()
        if new_uncut is not None:
            self.at = replace(self.at, reached=layer + 1, uncut=new_uncut)
        assert sums is not None
        return sums

    def _advance(self, layer: int) -> None:
        """Run the pruned layers in front of `layer`, and keep its input."""
        at = self.at
        if at.begin == layer:
            return
        now = self._states()
        top = [("l_out", layer - 1)]
        with self._running(at.plan, at.begin, layer, at.now, top) as run:
            for index in range(len(now)):
                now.put(index, self._shown(run(index), layer - 1))
                self._tick()
        self.at = replace(at, begin=layer, now=now)
