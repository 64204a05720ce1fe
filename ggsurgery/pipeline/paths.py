"""Where a run keeps its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .evaluation import Measurement


@dataclass(frozen=True)
class Places:
    """Where a run keeps things below its folder."""

    folder: Path
    name: str

    @property
    def cut(self) -> Path:
        return self.folder / f"{self.name}.gguf"

    @property
    def untrained(self) -> Path:
        """The cut before a training, whose result is `cut`."""
        return self.folder / f"{self.name}-untrained.gguf"

    @property
    def imatrix(self) -> Path:
        return self.folder / f"{self.name}.imatrix.gguf"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def quantized(self, ftype: str) -> Path:
        return self.folder / f"{self.name}-{ftype}.gguf"

    @property
    def said(self) -> Path:
        return self.folder / "results" / "said.json"

    @property
    def laco(self) -> Path:
        return self.folder / "results" / "laco.json"

    def result(self, file: str, measurement: str) -> Path:
        """Where a measurement of a file is kept; `file` is `source`, `cut` or a type."""
        return self.folder / "results" / f"{file}.{measurement}.json"

    def results(self, file: str, asked: Sequence[Measurement]) -> Iterator[Path]:
        return (self.result(file, m.name) for m in asked)
