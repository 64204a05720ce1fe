"""Operations on the layers of models, from one request to one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from ..errors import RequestError
from ..files.atomic import check_output
from ..files.progress import Progress
from ..plan.recipe import Recipe, load_recipe
from ..surgery.prepare import prepare
from ..surgery.prepared import Summary
from ..surgery.write import stages_of
from .fields import AllowUnknownArch, Force, SplitMaxSize, Threads, size_in_bytes
from .request import FilePath, FilePaths, Settings, option


@dataclass(frozen=True, slots=True)
class SurgeryResult:
    """The files that were written, and what was done.

    Args:
        files: the first of several names the model.
    """

    files: tuple[Path, ...]
    summary: Summary
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.files[0]


class SurgeryRequest(Settings, frozen=True, kw_only=True):
    """Apply operations to models and write one model.

    Example:
        >>> SurgeryRequest(
        ...     files=["in.gguf"], out="out.gguf", operations=[{"delete": {"layer": "10"}}]
        ... ).run().path  # doctest: +SKIP
    """

    files: Annotated[FilePaths, option("The models, in the order that the operations name them.")]
    out: Annotated[FilePath, option("The new model.", role="output")]
    operations: Annotated[
        list[dict[str, object]], option('As in a recipe: {"delete": {"layer": "10"}}.')
    ] = msgspec.field(default_factory=list)
    recipe: Annotated[FilePath | None, option("Or a recipe file.")] = None
    name: Annotated[str | None, option("The new model's general.name.")] = None
    drop_mtp: Annotated[bool, option("Leave out the layers behind the trunk (MTP).")] = False
    full_checksum: Annotated[
        bool, option("Record the sha256 of the whole input (slower than the surgery).")
    ] = False
    allow_unknown_arch: AllowUnknownArch = False
    sync: Annotated[bool, option("Wait until the data is on the disk.")] = False
    split_max_size: SplitMaxSize = None
    threads: Threads = None
    force: Force = False

    def agree(self) -> None:
        if bool(self.operations) == (self.recipe is not None):
            raise RequestError("either `operations` or a `recipe` is needed")
        if self.split_max_size is not None:
            size_in_bytes("split_max_size", self.split_max_size)

    def to_recipe(self) -> Recipe:
        """The operations with the options that change the bytes.

        Raises:
            FormatError: an unknown operation, or a damaged recipe file.
        """
        if self.recipe is not None:
            found = load_recipe(self.recipe)
        else:
            found = Recipe.from_json({"operations": self.operations})
        names = ("drop_mtp", "full_checksum", "allow_unknown_arch")
        chosen = {name: True for name in names if getattr(self, name)}
        options = tuple((dict(found.options) | chosen).items())
        return Recipe(found.steps, self.name or found.name, options)

    def check(self) -> list[str]:
        """Refuse an output in the way and operations that cannot be done; returns warnings."""
        inputs = [Path(file) for file in self.files]
        check_output(Path(self.out), inputs, force=self.force)
        with prepare(self.to_recipe(), inputs) as prepared:
            return prepared.warnings

    def run(self, progress: Progress | None = None) -> SurgeryResult:
        """Write the model."""
        size = self.split_max_size
        with prepare(self.to_recipe(), [Path(file) for file in self.files]) as prepared:
            written = prepared.write(
                Path(self.out),
                force=self.force,
                sync=self.sync,
                threads=self.threads,
                split_max_size=None if size is None else size_in_bytes("split_max_size", size),
                stages=stages_of(progress),
            )
            warnings = (*prepared.warnings, *written.warnings)
            return SurgeryResult(written.files, prepared.summary, warnings)
