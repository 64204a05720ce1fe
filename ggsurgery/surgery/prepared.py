"""A surgery that is decided to the last byte but not written, and what its writing came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arch import ArchRules, LayerKind
from ..files.closing import Closing
from ..ggufio.changes import Change, changes
from ..ggufio.reader import Source
from ..ggufio.types import Header
from ..inspect.verify import verify
from ..plan.recipe import Recipe
from ..plan.types import Blend, Block, Edited, Plan, Take, main_reference
from .layout import Compute, FileLayout
from .write import Stages, execute, unseen

if TYPE_CHECKING:  # numpy, which plain copying does not need
    from .zeros import Zeros


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of a surgery: counts before and after, and the map of the layers.

    Args:
        operation: the steps in words.
        layer_map: one row a new layer (`layer_map`).
        parameters: counted from shapes.
        bytes: of all files.
        computed: number of computed tensors, by type; all others are copied.
        warnings: of the layout.
    """

    operation: str
    layers: tuple[int, int]
    layer_map: list[dict[str, Any]]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    computed: dict[str, int]
    digest: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Summary.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a surgery.

    Args:
        files: the first of several names the model.
        layout: what was written, with the thresholds of global prunes.
        zeros: of the tensors that a prune was about, counted in the files.
        warnings: what only the written file shows.
    """

    files: tuple[Path, ...]
    layout: FileLayout
    zeros: tuple[Zeros, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.files[0]

    @property
    def sparsity(self) -> float | None:
        """The share of zeros in the pruned tensors; None where nothing was pruned."""
        if not self.zeros:
            return None
        return sum(z.n_zero for z in self.zeros) / sum(z.n_weights for z in self.zeros)


@dataclass(frozen=True, slots=True)
class PreparedSurgery(Closing):
    """A recipe applied to opened inputs; nothing is written until `write`.

    Args:
        recipe: the steps and options.
        sources: the opened inputs, in the plan's order.
        names: of the inputs.
        rules: of the shell's architecture; None where the file has no layers.
        before: the plan that changes nothing.
        plan: what the new model is made of.
        layout: every byte of the output but the values to be computed.
        given: arrays that the recipe names.
    """

    recipe: Recipe
    sources: tuple[Source, ...]
    names: tuple[str, ...]
    rules: ArchRules | None
    before: Plan
    plan: Plan
    layout: FileLayout
    given: Mapping[str, Any] | None = None

    @property
    def headers(self) -> list[Header]:
        return [source.header for source in self.sources]

    @property
    def shell(self) -> Header:
        """The header of the source that everything outside the layers comes from."""
        return self.sources[self.plan.shell].header

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every layer of the shell's source; none where the file has no layers."""
        return () if self.rules is None else self.rules.kinds(self.shell)

    @property
    def changes(self) -> list[Change]:
        """The metadata entries that differ from the shell's."""
        return changes(self.shell.metadata, self.layout.metadata)

    @property
    def dropped(self) -> list[str]:
        """The tensors of the shell's source that the output does not have."""
        kept = {p.info.name for p in self.layout.pieces}
        return [t.name for t in self.shell.tensors if t.name not in kept]

    @property
    def summary(self) -> Summary:
        computed = Counter(
            p.info.type_name for p in self.layout.pieces if isinstance(p.job, Compute)
        )
        return Summary(
            self.recipe.describe(),
            (self.before.n_layers, self.plan.n_layers),
            layer_map(self.plan),
            (self.shell.n_parameters, self.layout.n_parameters),
            (sum(self.shell.file_size), self.layout.n_bytes),
            dict(computed.most_common()),
            self.plan.digest,
            self.layout.warnings,
        )

    @property
    def faults(self) -> list[str]:
        """Errors that `verify` would report for the output; for a damaged input, that it is
        damaged."""
        output = self.layout.header_at(Path("the output"))
        found = [f for f in verify(output, self.rules) if f.severity == "error"]
        if not found:
            return []
        texts = []
        for header in self.headers:
            errors = [f for f in verify(header, self.rules) if f.severity == "error"]
            found = [
                f
                for f in found
                if (f.where, f.problem) not in {(e.where, e.problem) for e in errors}
            ]
            if errors:
                texts.append(
                    f"{header.path} has {len(errors)} error(s) already; "
                    "`ggsurgery verify` names them"
                )
        return texts + [f"{f.where}: {f.message}" for f in found]

    @property
    def warnings(self) -> list[str]:
        """Warnings before the file is written."""
        found, options = list(self.layout.warnings), dict(self.recipe.options)
        if options.get("drop_mtp") and not self.before.tail:
            found.append("`drop_mtp`: the file has no layers behind the trunk")
        if "out_type" in options and not self.layout.computes:
            found.append("`out_type`: nothing is computed; the tensors keep their types")
        if self.layout.computes:
            from .fold_scales import applied_first  # arithmetic, which a plain copy does not load

            found += applied_first(self.layout.pieces, self.headers)
        return found + self.faults

    def write(
        self,
        out: str | Path,
        *,
        force: bool = False,
        sync: bool = False,
        threads: int | None = None,
        spared: Sequence[Path] = (),
        split_max_size: int | None = None,
        stages: Stages = unseen,
    ) -> Written:
        """Write the output, and count the zeros in it where weights were pruned.

        Args:
            force: replace an existing file.
            sync: wait until the data is on the disk before the file gets its name.
            threads: for computed tensors; None takes `host.n_threads`.
            spared: further files that `out` must not replace.
            split_max_size: write several files with tensors of at most so many bytes each.
            stages: shows the progress of each stage.

        Raises:
            OutputError: the output exists, is an input, or does not fit on the disk.
            InputError: an input cannot be read, or changed while it was read.
        """
        layout, files = execute(
            self.layout,
            self.sources,
            Path(out),
            force=force,
            sync=sync,
            threads=threads,
            given=self.given,
            spared=spared,
            split_max_size=split_max_size,
            stages=stages,
        )
        if not any(s.operation == "prune" for s in self.recipe.steps):
            return Written(files, layout)
        from .zeros import measured_sparsity, zeros_in

        zeros = zeros_in(layout, files[0], stages)
        return Written(files, layout, zeros, tuple(measured_sparsity(self.recipe, zeros)))

    def close(self) -> None:
        for source in self.sources:
            source.close()

    def __enter__(self) -> PreparedSurgery:
        return self


def describe(block: Block) -> str:
    """The sources of a layer: `11`, `lerp(20, 22)`, `1:4` for layer 4 of the second file."""
    match block:
        case Take(ref):
            return str(ref.index) if ref.source == 0 else f"{ref.source}:{ref.index}"
        case Blend(parents, method, options):
            inner = ", ".join(describe(p) for p in parents)
            more = "".join(f", {k}={v}" for k, v in options)
            return f"{method}({inner}{more})"
        case Edited(inner_block, edits):
            return f"{describe(inner_block)} + {', '.join(e.kind for e in edits)}"


def layer_map(plan: Plan) -> list[dict[str, Any]]:
    """One row a new layer: its number, what it is made of, and its main origin."""
    rows = []
    for number, block in enumerate(plan.stack):
        ref = main_reference(block)
        rows.append(
            {"new": number, "from": describe(block), "source": ref.source, "layer": ref.index}
        )
    return rows
