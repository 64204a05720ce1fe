"""Which n layers to cut: five ways to choose, from a forward pass to greedy measurement.

influence   the n layers of least block influence             (ShortGPT)  one pass
angular     the span of n layers of least angular distance    (Gromov)    one pass
scan        the n layers that are missed least one by one     n_layers evaluations
greedy      cut the layer missed least, measure again, n times (SLEB)     ≈ n · n_layers
healed      the same after a quick refit of the layer in front, or the best span  ≈ n · n_layers / 4
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import ArchitectureError, GGSurgeryError, InputError, OutputError, PlanError
from ..files.progress import Progress
from ..ggufio.reader import Source
from ..measure.results.comparison import Cost, Difference
from ..measure.results.score import Score
from ..measure.setup import Setup
from ..measure.variants.journal import Journal
from ..measure.variants.measure import Measurer
from ..plan import ops
from ..plan.recipe import Recipe, step
from ..plan.text import format_layers
from ..plan.types import Plan
from ..runtime.engine import Engine
from .by_healed import choose_by_healed
from .influence import Influence, influence

By = Literal["influence", "angular", "greedy", "scan", "healed"]
Rounds = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Choice:
    """Layers to cut, and why.

    `rounds` lists every cut in order: the layer (as numbered in the file), and the figure that
    decided it (`score`: influence, distance, or the metric after the cut). `before` and `after` are
    the metric of the uncut model and of the whole cut, on the text or the questions that it was
    chosen on, and `cost` is their paired difference (of healed: after the quick refit), corrected
    for all cuts that were measured.
    """

    by: By
    layers: tuple[int, ...]
    rounds: Rounds
    before: float
    after: float
    cost: Cost
    sink: int | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe((step("delete", layer=format_layers(sorted(self.layers))),))

    def to_json(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "layers": sorted(self.layers),
            "rounds": [{"layer": layer, "score": score} for layer, score in self.rounds],
            "before": self.before,
            "after": self.after,
            "cost": self.cost.to_json(),
            "sink": self.sink,
        }


def how_many(n_layers: int, layers: int | None, share: float | None) -> int:
    """Layers to cut, from a number or a share of all.

    Raises:
        PlanError: neither or both given, or not between 1 and n_layers − 1.
    """
    if (layers is None) == (share is None):
        raise PlanError("say how much to cut", expected="either `layers` or `share`")
    if layers is None:
        assert share is not None
        if not 0 <= share <= 1:
            raise PlanError("impossible share of layers", expected="0 to 1", found=share)
        layers = math.floor(share * n_layers + 0.5)
    if n_layers < 2:
        raise PlanError("a model with one layer cannot be cut")
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
    *,
    keep: Collection[int] = (),
    tokens: Literal["last", "all"] = "last",
) -> Choice:
    """Choose `count` layers to cut; made to be run by `runtime.worker.run`.

    Args:
        setup: the model, and the metric that the cut is measured with.
        journal: keeps the measurements of `scan` and `greedy`; a later run continues from them.
        keep: layers that stay.
        tokens: where `angular` takes its distance.

    Raises:
        PlanError: too few layers are left to choose from.
        ArchitectureError: the rules refuse the cut, or too many of the single ones.
        GGSurgeryError: the model cannot be measured.
    """
    if by == "healed":
        if setup.metric != "perplexity":
            raise PlanError("--by healed ranks by perplexity", found=f"--metric {setup.metric}")
        best = choose_by_healed(setup, count, keep, progress)
        layers = tuple(layer for layer, _ in best.rounds)
        return Choice(by, layers, best.rounds, best.before, best.rounds[-1][1], best.cost)
    found = None
    if by in ("influence", "angular"):
        found = measure_influence(setup, progress, tokens)
    with Measurer(setup) as measurer:
        table = _Table(measurer, journal, keep)
        if len(table.free) < count:
            raise _too_few(setup, count, len(table.free))
        if found is not None:
            rounds = (
                _by_influence(found, table, count)
                if by == "influence"
                else _by_span(found, table, count)
            )
        else:
            rounds = (_scan if by == "scan" else _greedy)(table, count, progress)
        layers = tuple(layer for layer, _ in rounds)
        after = table.shown(table.figure(layers))
        sink = None if found is None else found.sink
        cost = Cost.of(table.differences[tuple(sorted(layers))], [*table.differences.values()])
        return Choice(by, layers, rounds, measurer.base.value, after, cost, sink)


def _too_few(setup: Setup, count: int, found: int) -> PlanError:
    return PlanError(
        "too many layers are kept", file=setup.path, expected=f"{count} that may go", found=found
    )


def _by_influence(found: Influence, table: _Table, count: int) -> Rounds:
    layers = [i for i in found.ranked() if i in table.free][:count]
    return tuple((i, float(found.block[i])) for i in layers)


def _by_span(found: Influence, table: _Table, count: int) -> Rounds:
    for first, distance in found.spans(count):
        layers = range(first, first + count)
        if table.free.issuperset(layers):
            return tuple((i, distance) for i in layers)
    raise PlanError(
        f"no span of {count} layers is without a kept one",
        file=found.file,
        hint="`--by influence` takes single layers.",
    )


def measure_influence(
    setup: Setup, progress: Progress | None = None, tokens: Literal["last", "all"] = "last"
) -> Influence:
    """Influence on a setup's windows.

    Raises:
        GGSurgeryError: no text, or a graph without named states.
    """
    windows = replace(setup, metric="influence").windows()
    size = max(64, setup.n_ctx)
    with Engine.open(setup.path, n_ctx=size, n_batch=size, n_threads=setup.n_threads) as engine:
        return influence(engine, windows.inputs, tokens=tokens, progress=progress)


class _Table:
    """Figures of cut sets, measured once each; smaller is better.

    `differences` are between the measured sets and the uncut model.
    """

    def __init__(self, measurer: Measurer, journal: Path | None, keep: Collection[int]) -> None:
        self.measurer = measurer
        self.identity = measurer.session.identity
        n_layers = len(self.identity.blocks)
        for layer in keep:
            if not 0 <= layer < n_layers:
                raise PlanError(f"layer {layer} does not exist", expected=f"0 to {n_layers - 1}")
        self.free = frozenset(range(n_layers)) - frozenset(keep)
        setup = measurer.setup
        self.differences: dict[tuple[int, ...], Difference] = {}
        self.refused: GGSurgeryError | None = None
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
        known = None if self.book is None else self.book.entry(plan.digest, "value")
        if known is None:
            measured = self.measurer.measure(plan)
            known = {
                "digest": plan.digest,
                "cut": sorted(cut),
                "value": measured.value,
                "items": list(measured.items),
            }
            if self.book is not None:
                self.book.finished(known)
        value, items = float(known["value"]), tuple(map(float, known["items"]))
        score = Score(self.measurer.base.metric, value, None, len(items), items=items)
        self.differences[tuple(sorted(cut))] = self.measurer.difference(score)
        return value if self.measurer.setup.lower_is_better else -value

    def tried(self, cut: tuple[int, ...]) -> float | None:
        """The figure of one candidate among others; None where it is refused."""
        try:
            return self.figure(cut)
        except (InputError, OutputError):  # no disk space for its file
            raise
        except GGSurgeryError as error:
            self.refused = error
            return None

    def refusal(self, count: int, found: int) -> GGSurgeryError:
        """The error of too few candidates that are not refused."""
        return ArchitectureError(
            "too few layers may go",
            file=self.measurer.setup.path,
            expected=count,
            found=f"{found}; another is refused: {self.refused}",
        )

    def shown(self, figure: float) -> float:
        """Convert back to the metric."""
        return figure if self.measurer.setup.lower_is_better else -figure


def _scan(table: _Table, count: int, progress: Progress | None) -> Rounds:
    layers = sorted(table.free)
    figures = {}
    for number, layer in enumerate(layers, 1):
        found = table.tried((layer,))
        if found is not None:
            figures[layer] = found
        if progress is not None:
            progress(number, len(layers))
    if len(figures) < count:
        raise table.refusal(count, len(figures))
    order = sorted(figures, key=lambda i: _worst_last(figures[i]))[:count]
    return tuple((i, table.shown(figures[i])) for i in order)


def _greedy(table: _Table, count: int, progress: Progress | None) -> Rounds:
    free = sorted(table.free)
    total = sum(len(free) - k for k in range(count))
    cut: tuple[int, ...] = ()
    rounds, done = [], 0
    for number in range(count):
        if number:
            table.start_from(tuple(sorted(cut)))
        best: tuple[float, int] | None = None
        for layer in (i for i in free if i not in cut):
            figure = table.tried((*cut, layer))
            if figure is not None:
                found = (_worst_last(figure), layer)
                best = found if best is None or found < best else best
            done += 1
            if progress is not None:
                progress(done, total)
        if best is None:
            raise table.refusal(count, number)
        cut = (*cut, best[1])
        rounds.append((best[1], table.shown(best[0])))
    return tuple(rounds)


def _worst_last(figure: float) -> float:
    return math.inf if math.isnan(figure) else figure
