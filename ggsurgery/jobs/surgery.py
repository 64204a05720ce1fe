"""Operations on the layers of models, from one request to one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..errors import RequestError
from ..files.atomic import check_output
from ..files.piped import kept
from ..files.progress import Progress
from ..plan.recipe import WITH_ARRAYS, Recipe, read_document
from ..surgery.prepare import prepare
from ..surgery.prepared import PreparedSurgery, Summary, Written
from ..surgery.write import Stages, stages_of, unseen
from .fields import (
    AllowUnknownArch,
    Force,
    OutType,
    Sidecar,
    SplitMaxSize,
    Sync,
    Threads,
    size_in_bytes,
)
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


class RecipeOptions(Settings, frozen=True, kw_only=True):
    """Options of all steps of a recipe; they change the bytes of the output."""

    drop_mtp: Annotated[bool, option("Leave out the layers behind the trunk (MTP).")] = False
    full_checksum: Annotated[
        bool, option("Record the sha256 of the whole input (slower than the surgery).")
    ] = False
    allow_unknown_arch: AllowUnknownArch = False
    out_type: OutType = None
    force_kinds: Annotated[
        bool, option("Blend layers even if they differ in kind (windowed with full attention …).")
    ] = False

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that are not as by default, as a recipe holds them."""
        fields = msgspec.structs.fields(RecipeOptions)
        values = ((f.name, getattr(self, f.name), f.default) for f in fields)
        return {name: value for name, value, default in values if value != default}


class WritingSettings(Settings, frozen=True, kw_only=True):
    """How a model is written; `SurgerySettings` has these fields too.

    They cannot share them: a struct of msgspec has one base with fields.
    """

    sync: Sync = False
    split_max_size: SplitMaxSize = None
    threads: Threads = None
    force: Force = False

    def agree(self) -> None:
        split_size(self.split_max_size)


class SurgerySettings(RecipeOptions, frozen=True, kw_only=True):
    """The options shared by all operations on models."""

    name: Annotated[str | None, option("The new model's general.name.")] = None
    sync: Sync = False
    split_max_size: SplitMaxSize = None
    threads: Threads = None
    force: Force = False

    def agree(self) -> None:
        split_size(self.split_max_size)


class SurgeryRequest(SurgerySettings, frozen=True, kw_only=True):
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
    recipe: Annotated[FilePath | None, option("A recipe file with the operations.")] = None
    sidecar: Sidecar = None

    def agree(self) -> None:
        SurgerySettings.agree(self)
        if bool(self.operations) == (self.recipe is not None):
            raise RequestError("either `operations` or a `recipe` is needed")

    @property
    def spared(self) -> list[Path]:
        """Files beside the models that the output must not replace."""
        return [Path(path) for path in (self.recipe, self.sidecar) if path is not None]

    def to_recipe(self) -> Recipe:
        """The operations with the options that change the bytes.

        Raises:
            FormatError: an unknown operation, or a damaged recipe file.
        """
        document = self._document()
        read = Recipe.from_json(document, "recipe" if self.recipe is None else self.recipe)
        options = tuple((dict(read.options) | self.chosen).items())
        return Recipe(read.steps, self.name or read.name, options)

    def _document(self) -> Any:
        if self.recipe is None:
            return {"operations": self.operations}
        return read_document(kept(self.recipe))

    @property
    def ignored(self) -> list[str]:
        """A warning of the recipe's parts that only `ggsurgery run` does."""
        document = self._document()
        sections = ("heal", "distil", "header", "template")
        left = [k for k in sections if isinstance(document, dict) and document.get(k)]
        if not left:
            return []
        parts = ", ".join(left)
        return [f"{self.recipe}: {parts}: for `ggsurgery run`; apply does the operations only"]

    def prepare(self, given: Mapping[str, Any] | None = None) -> PreparedSurgery:
        """Open the models and decide the whole output, without writing.

        Args:
            given: arrays that the operations name; None reads the sidecar.
        """
        recipe = self.to_recipe()
        if given is None and any(one.operation in WITH_ARRAYS for one in recipe.steps):
            from .arrays import arrays_of  # numpy, which a plain cut does not need

            named = self.recipe or self.files[0]
            given = arrays_of(recipe, self.files[0], sidecar=self.sidecar, named=named)
        return prepare(recipe, [Path(file) for file in self.files], given=given)

    def check(self) -> list[str]:
        """Refuse an output in the way and operations that cannot be done; returns warnings."""
        inputs = [*map(Path, self.files), *self.spared]
        check_output(Path(self.out), inputs, force=self.force)
        with self.prepare() as prepared:
            return self.ignored + prepared.warnings

    def run(self, progress: Progress | None = None) -> SurgeryResult:
        """Write the model."""
        with self.prepare() as prepared:
            written = write(
                self, prepared, Path(self.out), spared=self.spared, stages=stages_of(progress)
            )
            return result_of(prepared, written)


def split_size(value: int | str | None) -> int | None:
    """The size of `split_max_size` in bytes.

    Raises:
        RequestError: it is not one.
    """
    return None if value is None else size_in_bytes("split_max_size", value)


def write(
    settings: WritingSettings | SurgerySettings,
    prepared: PreparedSurgery,
    out: Path,
    *,
    spared: Sequence[Path] = (),
    stages: Stages = unseen,
) -> Written:
    """Write a prepared surgery.

    Args:
        spared: further files that the output must not replace.
        stages: shows the progress of each stage.
    """
    return prepared.write(
        out,
        force=settings.force,
        sync=settings.sync,
        threads=settings.threads,
        split_max_size=split_size(settings.split_max_size),
        spared=spared,
        stages=stages,
    )


def result_of(prepared: PreparedSurgery, written: Written) -> SurgeryResult:
    """The result of a surgery request."""
    return SurgeryResult(written.files, prepared.summary, (*prepared.warnings, *written.warnings))
