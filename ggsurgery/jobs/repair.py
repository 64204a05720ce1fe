"""Mend the metadata of a file from which another program removed layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..files.atomic import check_output
from ..files.progress import Progress
from ..plan.text import parse_layers
from ..surgery.prepared import PreparedSurgery
from ..surgery.repair import prepare_repair
from ..surgery.write import stages_of
from .fields import AllowUnknownArch, Model
from .request import FilePath, option
from .surgery import SurgeryResult, WritingSettings, result_of, write


class RepairRequest(WritingSettings, frozen=True, kw_only=True):
    """Mend a file that another program pruned without its metadata.

    Example:
        >>> RepairRequest(file="pruned.gguf", out="m.gguf", removed="10").run()  # doctest: +SKIP
    """

    file: Model
    out: Annotated[FilePath, option("The mended model.", role="output")]
    removed: Annotated[
        str,
        option(
            "The layers that were removed, numbered as in the whole model: 3, 3-5 or 0-9,11.",
            metavar="LIST",
        ),
    ]
    allow_unknown_arch: AllowUnknownArch = False

    def prepare(self) -> PreparedSurgery:
        """Find out what is to be mended, without writing."""
        layers = parse_layers(self.removed)
        return prepare_repair(self.file, layers, allow_unknown=self.allow_unknown_arch)

    def check(self) -> list[str]:
        """Refuse an output in the way and a file that needs no repair; returns warnings."""
        check_output(Path(self.out), [Path(self.file)], force=self.force)
        with self.prepare() as prepared:
            return prepared.warnings

    def run(self, progress: Progress | None = None) -> SurgeryResult:
        """Write the mended model."""
        with self.prepare() as prepared:
            written = write(self, prepared, Path(self.out), stages=stages_of(progress))
            return result_of(prepared, written)
