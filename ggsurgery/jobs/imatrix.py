"""Collect an importance matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..files.atomic import check_output
from ..files.progress import Progress
from ..ggufio.imatrix import Imatrix, write_imatrix
from ..runtime import worker
from ..runtime.imatrix_collect import collect
from . import cautions
from .fields import Force, Model, TextSettings, Threads, corpus
from .request import FilePath, option


class ImatrixSettings(TextSettings, frozen=True, kw_only=True):
    """A recipe's section `imatrix`."""

    ctx: Annotated[int, option("Tokens of a window.", ge=16, short="-c")] = 512
    process_output: Annotated[bool, option("Include output.weight.")] = False


@dataclass(frozen=True, slots=True)
class ImatrixResult:
    """An importance matrix, and what the user should know of it."""

    matrix: Imatrix
    warnings: tuple[str, ...] = ()


class ImatrixRequest(ImatrixSettings, frozen=True, kw_only=True):
    """Collect an importance matrix of a model on a text, and write it in llama.cpp's GGUF form.

    Example:
        >>> ImatrixRequest(file="m.gguf", out="m.dat", text="t.txt").run()  # doctest: +SKIP
    """

    file: Model
    out: Annotated[FilePath, option("The matrix.", metavar="OUT", role="output")]
    threads: Threads = None
    force: Force = False

    def check(self) -> list[str]:
        """Refuse an output in the way; returns warnings."""
        inputs = (Path(self.file), Path(self.text))
        check_output(Path(self.out), inputs, force=self.force)
        return cautions.of_context(Path(self.file), self.ctx)

    def run(self, progress: Progress | None = None) -> ImatrixResult:
        """Collect in a child process, then write."""
        found = worker.run(
            collect,
            self.file,
            corpus(self.text),
            n_ctx=self.ctx,
            n_chunks=self.windows,
            process_output=self.process_output,
            dataset=Path(self.text).name,
            parse_special=self.parse_special,
            n_threads=self.threads,
            progress=progress,
        )
        inputs = (Path(self.file), Path(self.text))
        write_imatrix(found, Path(self.out), inputs=inputs, force=self.force)
        return ImatrixResult(found, tuple(cautions.of_imatrix(found)))
