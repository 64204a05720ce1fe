"""Which n layers to cut: four ways to choose, from a forward pass to greedy measurement.

influence   the n layers of least block influence             (ShortGPT)  one pass
angular     the span of n layers of least angular distance    (Gromov)    one pass
scan        the n layers that are missed least one by one     n_layers evaluations
greedy      cut the layer missed least, measure again, n times (SLEB)     ≈ n · n_layers
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .analyze.influence import Influence, influence
from .candidates.journal import Journal
from .candidates.measure import Measurer, Setup
from .errors import GGSurgeryError, PlanError
from .ggufio.reader import Source
from .plan import ops
from .plan.recipe import Recipe, step
from .plan.text import format_layers
from .plan.types import Plan
from .runtime.engine import Engine

By = Literal["influence", "angular", "greedy", "scan"]
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Choice:
    """Layers to cut, and why.

    `rounds` tells of every cut in its order: the layer (as numbered in the file), and the
    figure that spoke for it (`score`: influence, distance, or the metric after the cut).
    """

    by: By
    layers: tuple[int, ...]
    rounds: tuple[tuple[int, float], ...]
    sink: int | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe((step("delete", layer=format_layers(sorted(self.layers))),))

    def to_json(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "layers": sorted(self.layers),
            "rounds": [{"layer": layer, "score": score} for layer, score in self.rounds],
            "sink": self.sink,
        }


def how_many(n_layers: int, layers: int | None, share: float | None) -> int:
    """Layers to cut, from a number or a share of all.

    Raises:
        PlanError: neither or both given, or not between 1 and n_layers − 1.
    """
    if (layers is None) == (share is None):
        raise PlanError("say how much to cut", expected="either --layers or --share")
    if layers is None:
        assert share is not None
        layers = math.floor(share * n_layers + 0.5)
    if not 1 <= layers < n_layers:
        raise PlanError(
            "impossible number of layers to cut", expected=f"1 to {n_layers - 1}", found=layers
        )
    return layers


def choose(
    setup: Setup,
    by: By,
    count: int,
    journal: Path | None = None,
    progress: Progress | None = None,
) -> Choice:
    """Choose `count` layers to cut; made to be run by `runtime.worker.run`.

    Args:
        setup: the model, and for `scan` and `greedy` the metric.
        journal: keeps the measurements of `scan` and `greedy`; they go on where they stopped.

    Raises:
        GGSurgeryError: the model cannot be measured.
    """
    if by in ("influence", "angular"):
        return _from_states(setup, by, count, progress)
    with Measurer(setup) as measurer:
        table = _Table(measurer, journal)
        one_by_one = by == "scan"
        return _scan(table, count, progress) if one_by_one else _greedy(table, count, progress)


def _from_states(setup: Setup, by: By, count: int, progress: Progress | None) -> Choice:
    found = measure_influence(setup, progress)
    if by == "influence":
        layers = found.ranked()[:count]
        rounds = tuple((i, float(found.block[i])) for i in layers)
    else:
        first, distance = found.spans(count)[0]
        layers = list(range(first, first + count))
        rounds = tuple((i, distance) for i in layers)
    return Choice(by, tuple(layers), rounds, found.sink)


def measure_influence(setup: Setup, progress: Progress | None = None) -> Influence:
    """Influence on a setup's windows.

    Raises:
        GGSurgeryError: no text, or a graph without named states.
    """
    from .candidates.windows import Windows
    from .evaluate.perplexity import read_text

    if setup.text is None:
        raise GGSurgeryError("influence needs a text", hint="Give one with --text FILE")
    size = max(64, setup.n_ctx)
    with Engine.open(setup.path, n_ctx=size, n_batch=size, n_threads=setup.n_threads) as engine:
        windows = Windows.of_text(engine, read_text(setup.text), setup.n_ctx, setup.n_windows)
        return influence(engine, windows.inputs, progress=progress)


class _Table:
    """Figures of cut sets, measured once each; smaller is better."""

    def __init__(self, measurer: Measurer, journal: Path | None) -> None:
        self.measurer = measurer
        self.identity = measurer.session.identity
        setup = measurer.setup
        self.book: Journal | None = None
        if journal is not None:
            with Source(setup.path) as source:
                subject = {"source": source.checksum(), "what": "prune-depth", **setup.facts()}
            self.book = Journal(journal, subject)

    def plan(self, cut: tuple[int, ...]) -> Plan:
        return ops.delete(self.identity, cut) if cut else self.identity

    def start_from(self, cut: tuple[int, ...]) -> None:
        """Keep the hidden states of this cut: the next candidates are variants of it."""
        if self.measurer.setup.needs_text:
            self.measurer.session.prepare(self.plan(cut))

    def figure(self, cut: tuple[int, ...]) -> float:
        plan = self.plan(tuple(sorted(cut)))
        known = None if self.book is None else self.book.results.get(plan.digest)
        if known is None:
            measured = self.measurer.measure(plan)
            known = {"digest": plan.digest, "cut": sorted(cut), "value": measured.value,
                     "items": list(measured.items)}  # fmt: skip
            if self.book is not None:
                self.book.finished(known)
        value = float(known["value"])
        return value if self.measurer.setup.lower_is_better else -value


def _scan(table: _Table, count: int, progress: Progress | None) -> Choice:
    n = len(table.identity.blocks)
    figures = []
    for layer in range(n):
        figures.append(table.figure((layer,)))
        if progress is not None:
            progress(layer + 1, n)
    order = sorted(range(n), key=lambda i: _worst_last(figures[i]))[:count]
    return Choice("scan", tuple(order), tuple((i, _shown(table, figures[i])) for i in order))


def _greedy(table: _Table, count: int, progress: Progress | None) -> Choice:
    n = len(table.identity.blocks)
    total = sum(n - k for k in range(count))
    cut: tuple[int, ...] = ()
    rounds, done = [], 0
    for number in range(count):
        if number:
            table.start_from(tuple(sorted(cut)))
        best: tuple[float, int] | None = None
        for layer in (i for i in range(n) if i not in cut):
            found = (_worst_last(table.figure((*cut, layer))), layer)
            best = found if best is None or found < best else best
            done += 1
            if progress is not None:
                progress(done, total)
        assert best is not None
        cut = (*cut, best[1])
        rounds.append((best[1], _shown(table, best[0])))
    return Choice("greedy", cut, tuple(rounds))


def _worst_last(figure: float) -> float:
    return math.inf if math.isnan(figure) else figure


def _shown(table: _Table, figure: float) -> float:
    return figure if table.measurer.setup.lower_is_better else -figure
