"""Every single operation of a kind, measured against the uncut model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ..errors import RequestError
from ..files import temporary
from ..files.progress import Progress
from ..find.plot import check_plot, save_plot
from ..find.scan import SHARES, Scan, scan
from ..ggufio.reader import Source
from .candidates import METRIC_HELP, CandidateRequest, context_warnings, envelope_of, files_of
from .fields import Force, Journal, Plot
from .request import Texts, option


@dataclass(frozen=True, slots=True)
class ScanResult:
    """All trials of one operation, and their JSON document."""

    scan: Scan
    document: dict[str, Any]
    warnings: tuple[str, ...] = ()


class ScanRequest(CandidateRequest, frozen=True, kw_only=True):
    """Do one operation at every place, and measure each.

    Example:
        >>> ScanRequest(file="m.gguf", text="t.txt").run().scan.ranked()[0]  # doctest: +SKIP
    """

    operation: Annotated[
        Literal["delete", "swap", "duplicate", "prune", "drop-expert"],
        option(
            "The operation, done once for every layer, share (prune) or expert (drop-expert).",
            flag="op",
        ),
    ] = "delete"
    metric: Annotated[str, option(METRIC_HELP)] = "perplexity"
    shares: Annotated[
        Texts,
        option(
            "Percent of all weights that `prune` sets to zero, smallest first.",
            metavar="LIST",
            joined=True,
        ),
    ] = tuple(map(str, SHARES))
    distance: Annotated[
        int, option("How far apart the layers are that `swap` exchanges.", ge=1)
    ] = 1
    journal: Journal = None
    plot: Plot = None
    force: Force = False

    def agree(self) -> None:
        self.percents()

    def percents(self) -> list[float]:
        """`shares` as numbers.

        Raises:
            RequestError: not numbers between 0 and 100.
        """
        try:
            shares = [float(text.strip().removesuffix("%")) for text in self.shares]
        except ValueError:
            shares = []
        if not shares or not all(0 < share < 100 for share in shares):
            found = ",".join(self.shares)
            raise RequestError("`shares`", expected="percents between 0 and 100", found=repr(found))
        return shares

    def check(self) -> list[str]:
        """Refuse a plot in the way; returns warnings."""
        setup = self.setup(self.metric)
        if self.plot is not None:
            journal = None if self.journal is None else Path(self.journal)
            check_plot(Path(self.plot), (*files_of(setup), journal), force=self.force)
        return context_warnings(setup)

    def run(self, progress: Progress | None = None) -> ScanResult:
        """Measure in child processes, then draw."""
        setup = self.setup(self.metric)
        with ExitStack() as stack:
            if self.journal is None:
                book = stack.enter_context(temporary.Folder("scan")) / "journal.jsonl"
            else:
                book = Path(self.journal)
            source = stack.enter_context(Source(setup.path))
            found = scan(
                setup,
                self.operation,
                book,
                shares=self.percents(),
                distance=self.distance,
                source=source,
                progress=progress,
            )
            document = envelope_of("scan", setup, source) | found.to_json()
        if self.plot is not None:
            save_plot(found.to_json(), Path(self.plot), force=self.force)
        warnings: tuple[str, ...] = ()
        if found.guessing:
            chance = f"chance {found.base.provenance['chance']:.2f}"
            noise = "what a layer loses or gains here is noise"
            warnings = (f"guessing explains the uncut model's figure ({chance}): {noise}",)
        return ScanResult(found, document, warnings)
