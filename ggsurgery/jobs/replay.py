"""Make a file once more from the recipe in its header, and compare the bytes."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

from .. import __version__
from ..compensate.fit_again import fit_of
from ..errors import OutputError
from ..files.atomic import check_output
from ..files.progress import Progress
from ..ggufio.header import read_header
from ..plan.recipe import Recipe
from ..surgery.prepare import prepare_replay
from ..surgery.prepared import PreparedSurgery, Written
from ..surgery.provenance import read_provenance
from ..surgery.write import stages_of
from .arrays import arrays_of
from .fields import Sidecar
from .request import FilePath, FilePaths, option
from .surgery import WritingSettings, write


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The file that was made, and whether its bytes equal the first's."""

    path: Path
    identical: bool
    recipe: Recipe
    warnings: tuple[str, ...] = ()


class ReplayRequest(WritingSettings, frozen=True, kw_only=True):
    """Make a file once more from the recipe in its header.

    Example:
        >>> request = ReplayRequest(made="out.gguf", files=["in.gguf"], out="new.gguf")
        >>> request.run().identical  # doctest: +SKIP
    """

    made: Annotated[FilePath, option("The file with the recipe in its header.", metavar="OUT")]
    files: Annotated[
        FilePaths, option("The inputs it was made from, in the same order.", metavar="IN")
    ]
    out: Annotated[FilePath, option("The file to make.", role="output", metavar="NEW")]
    sidecar: Sidecar = None
    text: Annotated[
        FilePath | None,
        option("The text that a cut was healed on: the fit is made again.", short="-f"),
    ] = None

    @property
    def spared(self) -> list[Path]:
        """Files beside the models that the output must not replace."""
        return [Path(path) for path in (self.sidecar, self.text) if path is not None]

    def check_made(self) -> list[str]:
        """Refuse to replace the file to compare with; returns a warning of another version."""
        known, out = read_provenance(read_header(self.made)), Path(self.out)
        if out.exists() and out.samefile(self.made):
            raise OutputError("the new file would replace the one to compare with", file=out)
        if known.version == __version__:
            return []
        return [f"{self.made} was made by version {known.version}, this is {__version__}"]

    def check(self) -> list[str]:
        """Refuse an output in the way; returns a warning of another version."""
        warnings = self.check_made()
        inputs = [*map(Path, self.files), *self.spared]
        check_output(Path(self.out), inputs, force=self.force)
        return warnings

    def arrays(self, progress: Progress | None = None) -> Mapping[str, Any] | None:
        """The arrays that the recipe names; the inputs are checked before a fit."""
        recipe = read_provenance(read_header(self.made)).recipe
        if fit_of(recipe) is None:
            return None
        self.prepare().close()
        return arrays_of(
            recipe,
            self.files[0],
            sidecar=self.sidecar,
            text=self.text,
            named=self.made,
            threads=self.threads,
            progress=progress,
        )

    def prepare(self, given: Mapping[str, Any] | None = None) -> PreparedSurgery:
        """Open the inputs and decide the whole output, without writing."""
        return prepare_replay(self.made, [Path(file) for file in self.files], given=given)

    def compared(self, prepared: PreparedSurgery, written: Written) -> ReplayResult:
        """Whether the written files have the bytes of the first ones."""
        both = read_header(self.made).paths, read_header(written.path).paths
        pairs = list(zip_longest(*both))
        same = all(a and b and filecmp.cmp(a, b, shallow=False) for a, b in pairs)
        recipe = read_provenance(read_header(self.made)).recipe
        warnings = (*prepared.warnings, *written.warnings)
        return ReplayResult(written.path, same, recipe, warnings)

    def run(self, progress: Progress | None = None) -> ReplayResult:
        """Make the file, fitting in a child process where it was healed, and compare."""
        with self.prepare(self.arrays(progress)) as prepared:
            out, stages = Path(self.out), stages_of(progress)
            written = write(self, prepared, out, spared=self.spared, stages=stages)
            return self.compared(prepared, written)
