"""The setup of a measurement: everything that its process needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import GGSurgeryError
from ..files.digest import sha256_of_file
from ..files.text import read_corpus
from ..plan.types import Plan
from ..runtime.vocab_only import VocabularyFile
from .draw import SEED
from .registry import METRICS, Metric, chosen
from .windows import Windows

#: How a candidate is loaded; see `variants.session`.
Route = Literal["auto", "suffix", "file", "live"]
#: Gives the plan to measure: takes a session, a plan, and the arrays that the plan may name.
Refit = Callable[[Any, Plan, dict[str, Any]], Plan]
#: Bytes of hidden states kept unless another bound is asked for.
CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class Setup:
    """The setup of a measurement.

    Args:
        path: the uncut model.
        metric: in the form of the metric's row: `kl`, `choices:FILE`, `bench:TASK`.
        text: a UTF-8 text for the metrics that need one.
        n_ctx, n_windows: size of a window in tokens, and how many; None takes all.
        limit: how many questions, or how many of each part of the suite.
        limit_seed: which questions those are.
        score: which accuracy counts for choices and for tasks that have several.
        parse_special: read special tokens in the text as the tokens they name.
        refit: changes each plan before it is measured, fitted on three quarters of the windows;
            figures are of the last quarter. Of perplexity only.
        row: the metric's row, from the registry; a process of its own gets it with the setup.
    """

    path: Path
    metric: str = "perplexity"
    text: Path | None = None
    n_ctx: int = 512
    n_windows: int | None = 8
    limit: int | None = None
    limit_seed: int = SEED
    score: str = "acc_norm"
    cache_bytes: int = CACHE_BYTES
    route: Route = "auto"
    n_threads: int | None = None
    allow_unknown_arch: bool = False
    parse_special: bool = False
    refit: Refit | None = None
    row: Metric | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        kind = self.metric.partition(":")[0]
        if self.row is not None and self.row.name == kind:
            return
        row = METRICS.get(kind)
        if row is not None and row.needs == "task" and self.argument:
            from .metrics.bench import row_of_task  # which imports this module

            row = row_of_task(row, self.argument, self.score)
        object.__setattr__(self, "row", row)

    @property
    def argument(self) -> str:
        """The part after the metric's colon."""
        return self.metric.partition(":")[2]

    @property
    def data(self) -> Path | None:
        """The file of questions."""
        if self.row is not None and self.row.needs == "task" and self.argument:
            from .metrics.bench import Task

            return Task.written(self.argument).questions
        return Path(self.argument) if self.argument else None

    @property
    def asked(self) -> Metric:
        """The metric's row.

        Raises:
            GGSurgeryError: an unknown metric, or one whose questions are missing.
        """
        row = self.row
        if row is None or not row.takes(self.argument):
            return chosen(self.metric)
        return row

    @property
    def needs_text(self) -> bool:
        return self.row is not None and self.row.needs == "text"

    @property
    def lower_is_better(self) -> bool:
        return self.row is not None and self.row.direction == "lower"

    def facts(self) -> dict[str, Any]:
        """The settings that make two measurements comparable; stored in journals and studies.

        Texts and questions count by their content: paths differ by machine, and files change.

        Raises:
            GGSurgeryError: an unknown metric; the text or the questions cannot be read.
        """
        row = self.asked
        return {
            "metric": row.name,
            "text": "sha256:" + sha256_of_file(self.text)
            if self.needs_text and self.text is not None
            else None,
            "questions": None if self.data is None else "sha256:" + sha256_of_file(self.data),
            "n_ctx": self.n_ctx,
            "n_windows": self.n_windows,
            "limit": self.limit,
            "limit_seed": None if self.limit is None or self.data is None else self.limit_seed,
            "score": self.score if row.scored else None,
            **({"task": self.argument.rpartition("/")[2]} if row.needs == "task" else {}),
            **({"healed": True} if self.refit is not None else {}),
            **({"parse_special": True} if self.needs_text and self.parse_special else {}),
        }

    def windows(self) -> Windows:
        """The text, cut.

        Raises:
            GGSurgeryError: no text, or too short a one.
        """
        if self.text is None:
            raise GGSurgeryError(f"{self.metric} needs a text", hint="Give one with --text FILE")
        with VocabularyFile(self.path) as vocabulary:
            return Windows.of_text(
                vocabulary,
                read_corpus(self.text),
                self.n_ctx,
                self.n_windows,
                parse_special=self.parse_special,
            )
