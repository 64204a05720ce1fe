"""The effect of each layer on the hidden state, from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ..arch import rules_for
from ..errors import PlanError
from ..files.progress import Progress
from ..find.influence import Influence, influence_of_file
from ..find.plot import check_plot, save_plot
from ..ggufio.header import read_header
from ..measure.results.envelope import envelope
from ..runtime import worker
from . import cautions
from .fields import Force, Model, ParseSpecial, Plot, Threads, corpus
from .request import FilePath, Settings, option

Tokens = Literal["last", "all"]


@dataclass(frozen=True, slots=True)
class InfluenceResult:
    """Influence of the layers, and its JSON document."""

    influence: Influence
    document: dict[str, Any]
    warnings: tuple[str, ...] = ()


class InfluenceRequest(Settings, frozen=True, kw_only=True):
    """Measure what each layer changes, in one forward pass.

    Example:
        >>> InfluenceRequest(file="m.gguf", text="t.txt").run().influence  # doctest: +SKIP
    """

    file: Model
    text: Annotated[FilePath, option("UTF-8 text that runs through the model.", short="-f")]
    span: Annotated[int, option("Rank every span of N layers.", ge=1, metavar="N")] | None = None
    tokens: Annotated[
        Tokens,
        option(
            "Where the angular distance is taken: at the last token of each window (as published; "
            "few samples, so give many windows), or at all."
        ),
    ] = "last"
    ctx: Annotated[int, option("Tokens of a window.", ge=8, short="-c")] = 512
    windows: Annotated[
        int, option("Use the first N windows of the text.", ge=1, old=("chunks",))
    ] = 8
    plot: Plot = None
    force: Force = False
    parse_special: ParseSpecial = False
    threads: Threads = None

    def check(self) -> list[str]:
        """Refuse a plot in the way and a span that is too long; returns warnings."""
        file = Path(self.file)
        if self.plot is not None:
            check_plot(Path(self.plot), (file, Path(self.text)), force=self.force)
        header = read_header(file)
        n_layers = header.n_layers - rules_for(header, allow_unknown=True).n_tail(header)
        if self.span is not None and self.span > n_layers:
            raise PlanError(
                "no such `span`", file=file, expected=f"1 to {n_layers} layers", found=self.span
            )
        return cautions.of_context(file, self.ctx)

    def run(self, progress: Progress | None = None) -> InfluenceResult:
        """Measure in a child process, then draw."""
        file = Path(self.file)
        found = worker.run(
            influence_of_file,
            file,
            corpus(self.text),
            self.ctx,
            self.windows,
            self.tokens,
            self.threads,
            self.parse_special,
            progress=progress,
        )
        settings = {
            "n_ctx": self.ctx,
            "n_windows": self.windows,
            "parse_special": self.parse_special or None,
        }
        figures = found.to_json(self.span)
        if self.plot is not None:
            save_plot(figures, Path(self.plot), force=self.force)
        document = envelope("influence", file, settings, Path(self.text)) | figures
        return InfluenceResult(found, document, tuple(cautions.of_sink(found)))
