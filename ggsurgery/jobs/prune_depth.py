"""Choose the layers to cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..arch import rules_for
from ..errors import RequestError
from ..files.progress import Progress
from ..find.prune_depth import By, Choice, choose, how_many
from ..ggufio.header import read_header
from ..plan.text import parse_layers
from ..runtime import worker
from . import cautions
from .candidates import METRIC_HELP, CandidateRequest, context_warnings, files_of
from .fields import Journal
from .influence import Tokens
from .request import option


@dataclass(frozen=True, slots=True)
class PruneDepthResult:
    """The chosen layers; `choice.recipe` cuts them."""

    choice: Choice
    warnings: tuple[str, ...] = ()


class PruneDepthRequest(CandidateRequest, frozen=True, kw_only=True):
    """Choose whole layers to cut, by measurement. Nothing is written.

    Example:
        >>> PruneDepthRequest(file="m.gguf", text="t.txt", layers=4).run()  # doctest: +SKIP
    """

    layers: Annotated[int, option("How many layers go.", ge=1, metavar="N")] | None = None
    share: (
        Annotated[float, option("Which share of the layers goes, such as 0.25.", ge=0, le=1)] | None
    ) = None
    by: Annotated[
        By,
        option(
            "influence: least block influence. angular: the span of least angular distance. "
            "scan: missed least one by one. greedy: measured again after every cut. healed: the "
            "same, measured after a quick refit, for a cut that `heal` is to follow."
        ),
    ] = "greedy"
    metric: Annotated[
        str,
        option("What scan and greedy choose by, and what the cut is measured with: " + METRIC_HELP),
    ] = "perplexity"
    keep: Annotated[
        str | None, option("Layers that stay, such as the attention sink's.", metavar="LIST")
    ] = None
    tokens: Annotated[
        Tokens,
        option(
            "Where angular takes the distance: at the last token of each window (few samples: "
            "give many windows), or at all tokens."
        ),
    ] = "last"
    journal: Journal = None

    @property
    def inputs(self) -> list[Path]:
        """Files that an output must not replace."""
        journal = None if self.journal is None else Path(self.journal)
        return [p for p in (*files_of(self.setup(self.metric)), journal) if p is not None]

    def check(self) -> list[str]:
        """Refuse an impossible number of layers and a missing text; returns warnings."""
        setup = self.setup(self.metric)
        self._count()
        if self.text is None and (self.by in ("influence", "angular") or setup.needs_text):
            raise RequestError("a `text` is needed")
        return context_warnings(setup)

    def run(self, progress: Progress | None = None) -> PruneDepthResult:
        """Measure in child processes."""
        found = worker.run(
            choose,
            self.setup(self.metric),
            self.by,
            self._count(),
            None if self.journal is None else Path(self.journal),
            progress=progress,
            file=self.file,
            keep=() if self.keep is None else parse_layers(self.keep),
            tokens=self.tokens,
        )
        warnings = []
        if found.sink in found.layers:
            warnings.append(
                f"layer {found.sink}, which makes the attention sink, is among them: cutting it "
                f"usually breaks the model. `keep` {found.sink} leaves it"
            )
        if self.metric == "perplexity":
            warnings += cautions.of_loss(found.before, found.after)
        return PruneDepthResult(found, tuple(warnings))

    def _count(self) -> int:
        header = read_header(self.file)
        n_layers = header.n_layers - rules_for(header, allow_unknown=True).n_tail(header)
        return how_many(n_layers, self.layers, self.share)
