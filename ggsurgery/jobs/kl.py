"""KL divergence of a model from its base: two files side by side, or one and a stored base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..files.atomic import check_output
from ..files.progress import Progress
from ..measure import runs
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..runtime import worker
from . import cautions
from .fields import Force, Model, ResultFile, TextSettings, Threads, Windows, corpus
from .measured import Measured, of_text, write_results
from .request import FilePath, Settings, option


class KlRequest(TextSettings, frozen=True, kw_only=True):
    """Measure the KL divergence of a file from its base on a text, both models loaded.

    Example:
        >>> KlRequest(base="a.gguf", file="b.gguf", text="t.txt").run().scores  # doctest: +SKIP
    """

    base: Annotated[FilePath, option("The model to compare with.", metavar="BASE")]
    file: Model
    threads: Threads = None
    out: ResultFile = None
    force: Force = False

    def check(self) -> list[str]:
        """Refuse an output in the way; returns warnings."""
        files = (Path(self.base), Path(self.file))
        if self.out is not None:
            check_output(Path(self.out), (*files, Path(self.text)), force=self.force)
        return [text for file in files for text in cautions.of_context(file, self.ctx)]

    def run(self, progress: Progress | None = None) -> Measured:
        """Measure in a child process."""
        scores = worker.run(
            runs.kl_of_files,
            self.base,
            self.file,
            corpus(self.text),
            n_ctx=self.ctx,
            n_windows=self.windows,
            parse_special=self.parse_special,
            n_threads=self.threads,
            progress=progress,
            file=self.file,
        )
        results = of_text(scores, Path(self.text), Path(self.file))
        write_results(self.out, results, force=self.force)
        return Measured(results)


class KlBaseRequest(TextSettings, frozen=True, kw_only=True):
    """Store a base model's likeliest tokens and the mass of the rest, for `KlOfBaseRequest`."""

    base: Annotated[FilePath, option("The model to compare with.", metavar="BASE")]
    save_base: Annotated[
        FilePath, option("Write the base's predictions here and stop.", role="output")
    ]
    top_k: Annotated[int, option("Tokens stored a position with --save-base.", ge=1)] = 256
    threads: Threads = None
    force: Force = False

    def check(self) -> list[str]:
        """Refuse an output in the way; returns warnings."""
        check_output(Path(self.save_base), (Path(self.base), Path(self.text)), force=self.force)
        return cautions.of_context(Path(self.base), self.ctx)

    def run(self, progress: Progress | None = None) -> Path:
        """Write the file in a child process; returns its path."""
        worker.run(
            runs.save_base_file,
            self.base,
            self.save_base,
            corpus(self.text),
            n_ctx=self.ctx,
            n_windows=self.windows,
            k=self.top_k,
            inputs=(Path(self.base), Path(self.text)),
            force=self.force,
            parse_special=self.parse_special,
            n_threads=self.threads,
            progress=progress,
        )
        return Path(self.save_base)


class KlOfBaseRequest(Settings, frozen=True, kw_only=True):
    """Measure the KL divergence of a file from a stored base; the figure is a lower bound."""

    file: Model
    base_file: Annotated[FilePath, option("Compare with predictions stored before.")]
    windows: Windows = None
    threads: Threads = None
    out: ResultFile = None
    force: Force = False

    def check(self) -> list[str]:
        """Refuse an output in the way."""
        if self.out is not None:
            files = (Path(self.file), Path(self.base_file))
            check_output(Path(self.out), files, force=self.force)
        return []

    def run(self, progress: Progress | None = None) -> Measured:
        """Measure in a child process."""
        scores = worker.run(
            runs.kl_of_base_file,
            self.file,
            self.base_file,
            n_windows=self.windows,
            n_threads=self.threads,
            progress=progress,
        )
        results = Results(model_facts(Path(self.file)), tuple(scores))
        write_results(self.out, results, force=self.force)
        over = scores[0].provenance.get("over_trained")
        text = f"{self.file}: the stored window exceeds the context the model was trained with"
        return Measured(results, (text,) if over else ())
