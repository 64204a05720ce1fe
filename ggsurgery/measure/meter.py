"""The interface of a metric's class: it reads its data once and measures several models.

    read(setup)                  the data: windows, questions, nothing
    base(model, data, losses)    the uncut model's own figure
    measure(model, data)         any other model's, with as many items in the same order

Differences are paired item by item (`results.comparison.paired`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..errors import GGSurgeryError
from ..files.progress import Progress
from ..runtime.engine import Engine
from ..runtime.vocab_only import VocabularyFile
from .registry import Metric, askable
from .results.score import Score
from .setup import Setup
from .variants.candidate import Candidate
from .windows import Windows

D = TypeVar("D")


class Model(Protocol):
    """A model that can be opened in the way that a metric needs it."""

    def candidate(self) -> AbstractContextManager[Candidate]:
        """Ready to decode the windows of the text."""

    def losses(self, progress: Progress | None = None) -> list[float]:
        """Mean negative log-likelihood of each window, nats a token."""

    def vocabulary(self) -> AbstractContextManager[VocabularyFile]:
        """The tokenizer alone."""

    def engine(
        self, n_ctx: int, *, n_seq: int = 1, unified: bool = True
    ) -> AbstractContextManager[Engine]:
        """The whole model, with its vocabulary."""

    def uncut(self, n_ctx: int) -> AbstractContextManager[Engine]:
        """The model that this one is a variant of."""


class Meter(ABC, Generic[D]):
    """Measures one metric. Subclasses are named in the metric's row of `registry`."""

    def __init__(self, row: Metric) -> None:
        self.row = row

    @abstractmethod
    def read(self, setup: Setup) -> D:
        """The data that the setup names.

        Raises:
            GGSurgeryError: it is missing, damaged or too short.
        """

    def windows(self, data: D) -> Windows | None:
        """The windows of text in the data, None of a metric that reads none."""
        return None

    def base(
        self, model: Model, data: D, losses: Sequence[float], stack: ExitStack
    ) -> tuple[Score, D]:
        """The uncut model's figure, and the data with what is kept of that model.

        Args:
            losses: of its windows, where there are any; they are computed for all metrics.
            stack: closes what is kept.
        """
        return self.measure(model, data), data

    @abstractmethod
    def measure(self, model: Model, data: D, progress: Progress | None = None) -> Score:
        """The figure of a model.

        Raises:
            GGSurgeryError: the model cannot be loaded or run.
        """

    def score(
        self,
        items: Sequence[float],
        ids: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> Score:
        """The figure of its items: their mean, or the exponential of it, with its error."""
        n = len(items)
        mean = math.fsum(items) / n if n else math.nan
        spread = float(np.std(items, ddof=1) / math.sqrt(n)) if n > 1 else None
        value = exponential(mean) if self.row.logarithmic else mean
        if self.row.logarithmic and spread is not None:
            spread *= value
        return self.made(value, spread, n, items, ids, facts)

    def made(
        self,
        value: float,
        stderr: float | None,
        n: int,
        items: Sequence[float] = (),
        ids: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> Score:
        """A score of this metric."""
        return Score(
            self.row.name,
            value,
            stderr,
            n,
            facts or {},
            tuple(items),
            tuple(ids),
            self.row.direction,
        )


def meter_of(row: Metric) -> Meter[Any]:
    """The meter of a metric.

    Raises:
        GGSurgeryError: nothing measures it by itself.
    """
    if row.meter is None:
        raise GGSurgeryError("unknown metric", expected=" or ".join(askable()), found=row.name)
    module, _, name = row.meter.partition(":")
    place = module if "." in module else f"{__package__}.metrics.{module}"
    made: Meter[Any] = getattr(import_module(place), name)(row)
    return made


def exponential(mean: float) -> float:
    """exp, infinite where a float cannot hold it."""
    return math.inf if mean >= 709 else math.exp(mean)
