"""Where a run keeps its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .evaluation import Measurement
from .sections import RecipeFile

Stage = Literal["cut", "heal", "distil"]
#: File name of a stage's model if other stages follow.
STAGES: dict[Stage, str] = {"cut": "bare", "heal": "healed", "distil": "distilled"}


def stages_of_file(file: RecipeFile) -> tuple[Stage, ...]:
    """The stages that make the model of a recipe, in order."""
    asked: dict[Stage, object] = {"cut": file, "heal": file.heal, "distil": file.distil}
    return tuple(stage for stage, section in asked.items() if section is not None)


@dataclass(frozen=True)
class Places:
    """Where a run keeps things below its folder.

    Args:
        stages: what makes the model, in order.
    """

    folder: Path
    name: str
    stages: tuple[Stage, ...] = ("cut",)

    @property
    def cut(self) -> Path:
        return self.folder / f"{self.name}.gguf"

    def made(self, stage: Stage) -> Path:
        """The model that a stage makes; the last one's is `cut`."""
        if stage == self.stages[-1]:
            return self.cut
        return self.folder / f"{self.name}-{STAGES[stage]}.gguf"

    def before(self, stage: Stage) -> Path:
        """The model that a stage starts from."""
        return self.made(self.stages[self.stages.index(stage) - 1])

    def sidecar(self, stage: Stage) -> Path:
        """The arrays that a stage added."""
        return self.folder / f"{self.name}.{stage}.npz"

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
    def recovery(self) -> Path:
        """The recovery by each step after the cut."""
        return self.folder / "results" / "recovery.json"

    @property
    def laco(self) -> Path:
        return self.folder / "results" / "laco.json"

    def result(self, file: str, measurement: str) -> Path:
        """Where a measurement of a file is kept; `file` is `source`, `cut` or a type."""
        return self.folder / "results" / f"{file}.{measurement}.json"

    def results(self, file: str, asked: Sequence[Measurement]) -> Iterator[Path]:
        return (self.result(file, m.name) for m in asked)
