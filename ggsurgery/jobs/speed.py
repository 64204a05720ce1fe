"""Tokens a second of one or several models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..errors import RequestError
from ..files.atomic import check_output
from ..files.progress import Progress
from ..measure.metrics.speed import Speed, speed_of_files
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..runtime import worker
from .fields import Force, ResultFile, Threads
from .measured import write_json
from .request import FilePaths, Settings, option


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """The figures of every file, in the order that they were given."""

    speeds: tuple[Speed, ...]
    results: tuple[Results, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """As a result file holds them."""
        return [results.to_json() for results in self.results]


class SpeedRequest(Settings, frozen=True, kw_only=True):
    """Measure tokens a second, reading a prompt and generating, as llama-bench defines them.

    Example:
        >>> SpeedRequest(files=["a.gguf", "b.gguf"]).run().speeds  # doctest: +SKIP
    """

    files: Annotated[FilePaths, option("GGUF files, which take turns.", metavar="FILE")]
    prompt: Annotated[int, option("Tokens of the prompt.", ge=1)] = 512
    generate: Annotated[int, option("Tokens to generate.", ge=1)] = 128
    repetitions: Annotated[
        int, option("Measurements of each file, after a warm-up.", ge=1, short="-r")
    ] = 5
    threads: Threads = None
    out: ResultFile = None
    force: Force = False

    def agree(self) -> None:
        if not self.files:
            raise RequestError("`files`", expected="at least one file", found="none")

    def check(self) -> list[str]:
        """Refuse an output in the way; returns warnings."""
        if self.out is not None:
            check_output(Path(self.out), tuple(map(Path, self.files)), force=self.force)
        return []

    def run(self, progress: Progress | None = None) -> SpeedResult:
        """Measure in a child process."""
        speeds = worker.run(
            speed_of_files,
            tuple(map(Path, self.files)),
            self.prompt,
            self.generate,
            self.repetitions,
            self.threads,
            progress=progress,
        )
        results = tuple(Results(model_facts(s.file), tuple(s.scores)) for s in speeds)
        found = SpeedResult(tuple(speeds), results)
        inputs = tuple(map(Path, self.files))
        write_json(self.out, found.to_json(), force=self.force, inputs=inputs)
        return found
