"""Perplexity of a model on a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..files.atomic import check_output
from ..files.progress import Progress
from ..measure.metrics.perplexity import Perplexity, perplexity_of_file
from ..runtime import worker
from . import cautions
from .fields import Force, Model, ResultFile, TextSettings, Threads, corpus
from .measured import Measured, of_text, write_results
from .request import option


class PerplexitySettings(TextSettings, frozen=True, kw_only=True):
    """A recipe's section `evaluate.perplexity`."""

    bos: Annotated[
        bool | None,
        option("Override whether BOS precedes each window; default: the file's setting."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityResult(Measured):
    """The perplexity of one file, with its windows."""

    perplexity: Perplexity

    @property
    def value(self) -> float:
        return self.perplexity.value

    def to_json(self) -> dict[str, Any]:
        """The figures, with the text's name in the provenance."""
        (score,) = self.results.scores
        return {**self.perplexity.to_json(), "provenance": dict(score.provenance)}


class PerplexityRequest(PerplexitySettings, frozen=True, kw_only=True):
    """Measure the perplexity of a file on a text, as llama-perplexity defines it.

    Example:
        >>> PerplexityRequest(file="m.gguf", text="t.txt").run().value  # doctest: +SKIP
        33.2467
    """

    file: Model
    threads: Threads = None
    out: ResultFile = None
    force: Force = False

    def check(self) -> list[str]:
        """Refuse an output in the way; returns warnings."""
        if self.out is not None:
            check_output(Path(self.out), (Path(self.file), Path(self.text)), force=self.force)
        return cautions.of_context(Path(self.file), self.ctx)

    def run(self, progress: Progress | None = None) -> PerplexityResult:
        """Measure in a child process."""
        found = worker.run(
            perplexity_of_file,
            self.file,
            corpus(self.text),
            n_ctx=self.ctx,
            n_chunks=self.windows,
            add_bos=self.bos,
            n_threads=self.threads,
            parse_special=self.parse_special,
            progress=progress,
        )
        results = of_text([found.score], Path(self.text), Path(self.file))
        write_results(self.out, results, force=self.force)
        return PerplexityResult(results, perplexity=found)
