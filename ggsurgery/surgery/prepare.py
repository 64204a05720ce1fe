"""From a recipe and input files to an output file: the whole way in one call.

with prepare(recipe, ["in.gguf"]) as operation:
    print(operation.layout.n_bytes)      # a dry run stops here
    operation.write("out.gguf")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import __version__
from ..arch import ArchRules, LayerKind, rules_for
from ..errors import ArchitectureError, FormatError, PlanError, printable
from ..ggufio.changes import PADDING_KEY
from ..ggufio.constants import Keys
from ..ggufio.new_value import new_value
from ..ggufio.reader import Source
from ..ggufio.split import KEYS as SPLIT_KEYS
from ..ggufio.types import Header, TensorInfo, Value, type_id
from ..inspect.verify import verify
from ..plan.ops import drop_tail
from ..plan.recipe import HEADER_STEPS, PLAIN_STEPS, Recipe
from ..plan.types import Plan
from .layout import Compute, lay_out, lay_out_as_is
from .metadata import edited, is_header_edit
from .naming import counted_size_label, new_file_type, new_identity, new_quantization_version
from .provenance import PREFIX, entries, read_provenance
from .write import Progress, execute, settle

#: Options of a recipe that change the resulting bytes, with what they must be.
OPTIONS: dict[str, type] = {
    "allow_unknown_arch": bool,
    "force_kinds": bool,
    "drop_mtp": bool,
    "out_type": str,
    "full_checksum": bool,
}

#: Options that concern layers or computed tensors.
_OF_LAYERS = {"drop_mtp", "out_type", "force_kinds"}


class Operation:
    """A recipe applied to opened inputs; nothing is written until `write`."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: Sequence[str | Path],
        *,
        version: str = __version__,
        names: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        _check_text(recipe)
        self.recipe = recipe
        self.options = _options(recipe)
        self.given = given
        self.sources: list[Source] = []
        try:
            alone = _mends_split(recipe)
            for path in inputs:
                self.sources.append(Source(path, alone=alone))
            self.names = names or [printable(h.path.name) for h in self.headers]
            plain = all(s.operation in PLAIN_STEPS for s in recipe.steps) and recipe.steps
            if plain and len(self.sources) == 1 and not self.options.keys() & _OF_LAYERS:
                self._prepare_plain(version)
            else:
                self._prepare(version)
        except BaseException:
            self.close()
            raise

    def _prepare(self, version: str) -> None:
        headers = self.headers
        rules = rules_for(headers[0], allow_unknown=self.options.get("allow_unknown_arch", False))
        self.rules: ArchRules | None = rules
        self.before = Plan.identity(headers[0].n_layers, rules.n_tail(headers[0]))
        plan = self.plan = self._planned(self.recipe)
        if plan.n_sources != len(headers):
            raise PlanError(
                "another number of inputs than the recipe takes", file=headers[0].path,
                expected=plan.n_sources, found=len(headers),
            )  # fmt: skip
        if len(headers) > 1:
            from ..tensors.compatible import check_alike

            check_alike(headers, plan)
        force = self.options.get("force_kinds", False)
        change = rules.rewrite(headers, plan, force_kinds=force)
        metadata = _without_own(headers[plan.shell].metadata)
        for key in change.unset:
            metadata.pop(key, None)
        metadata.update(change.set)
        out_type = self.options.get("out_type")
        kind = None if out_type is None else type_id(out_type)
        layout = lay_out(plan, headers, change, metadata, out_type=kind)
        label = _label(headers[plan.shell], layout.tensor_infos())
        told = self.recipe.without_folders()
        done = "; ".join(s.describe() for s in told.steps if s.operation not in PLAIN_STEPS)
        metadata.update(new_identity(metadata, label, done, told.name))
        if layout.computes or len(headers) > 1:
            infos = headers[plan.shell].tensors, layout.tensor_infos()
            metadata.update(new_file_type(metadata, *infos))
            computed = [p.info for p in layout.pieces if isinstance(p.job, Compute)]
            metadata.update(new_quantization_version(metadata, computed))
        edits = filter(is_header_edit, plan.edits)
        metadata, notes = edited(headers[plan.shell], metadata, edits)
        change.warnings += tuple(notes)
        full = self.options.get("full_checksum", False)
        sums = [source.checksum(full=full) for source in self.sources]
        metadata.update(entries(self._planned(told), told, self.names, headers, sums, version))
        # Laid out again: name and provenance changed the header's length, not the pieces.
        self.layout = lay_out(plan, headers, change, metadata, out_type=kind)

    def _prepare_plain(self, version: str) -> None:
        """Entries and the list of tensors change, and nothing else: any GGUF file will do."""
        header = self.headers[0]
        self.rules, self.before = _layers_of(header)
        plan = self.plan = self._planned(self.recipe)
        told = self.recipe.without_folders()
        metadata = _without_own(header.metadata)
        if told.name is not None:
            metadata[Keys.General.NAME], _ = new_value(Keys.General.NAME, told.name, header)
        if plan.stack:
            infos = lay_out_as_is(plan, header, metadata).tensor_infos()
            metadata.update(new_identity(metadata, _label(header, infos), "", told.name))
        metadata, notes = edited(header, metadata, filter(is_header_edit, plan.edits))
        full = self.options.get("full_checksum", False)
        sums = [self.sources[0].checksum(full=full)]
        metadata.update(entries(plan, told, self.names, self.headers, sums, version))
        self.layout = replace(lay_out_as_is(plan, header, metadata), warnings=tuple(notes))

    def kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every layer of the shell's source; none where the file has no layers."""
        header = self.headers[self.plan.shell]
        return () if self.rules is None else self.rules.kinds(header)

    def _planned(self, recipe: Recipe) -> Plan:
        try:
            plan = recipe.apply(self.before)
        except PlanError as error:  # operations know layers, not files
            raise error.at(file=self.headers[0].path) from error
        return drop_tail(plan) if self.options.get("drop_mtp") else plan

    def settle(self, *, progress: Progress | None = None) -> None:
        """Find the thresholds of global prunes now (otherwise `write` does it).

        Args:
            progress: called with the bytes read since the last call.
        """
        self.layout = settle(self.layout, self.sources, given=self.given, progress=progress)

    @property
    def headers(self) -> list[Header]:
        return [source.header for source in self.sources]

    def faults(self, out: Path) -> list[str]:
        """What `verify` would call an error of the output; of a damaged input that it is one."""
        for header in self.headers:
            if n := sum(f.severity == "error" for f in verify(header)):
                return [f"{header.path} has {n} error(s) already; `ggsurgery verify` names them"]
        found = verify(self.layout.header_at(out))
        return [f"{f.where}: {f.message}" for f in found if f.severity == "error"]

    def write(
        self,
        out: str | Path,
        *,
        force: bool = False,
        sync: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
        split_max_size: int | None = None,
    ) -> Path:
        """Write the output; see `execute.execute`.

        Args:
            split_max_size: write several files with tensors of at most so many bytes each.

        Returns:
            The file, or the first of several.

        Raises:
            OutputError: the output exists, is an input, or does not fit on the disk.
        """
        write: dict[str, Any] = {
            "force": force, "sync": sync, "threads": threads, "given": self.given,
            "progress": progress,
        }  # fmt: skip
        if split_max_size is None:
            execute(self.layout, self.sources, Path(out), **write)
            return Path(out)
        from .shards import execute_split

        return execute_split(self.layout, self.sources, Path(out), split_max_size, **write)[0]

    def close(self) -> None:
        for source in self.sources:
            source.close()

    def __enter__(self) -> Operation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def prepare(
    recipe: Recipe, inputs: Sequence[str | Path], *, given: Mapping[str, Any] | None = None
) -> Operation:
    """Open the inputs, apply the recipe and decide the whole output, without writing.

    Raises:
        FormatError: an input is damaged.
        PlanError: an operation cannot be done.
        ArchitectureError: layers would lose their meaning.

    Example:
        >>> from ggsurgery.plan.recipe import Recipe, step
        >>> recipe = Recipe((step("delete", layer="10"),))
        >>> prepare(recipe, ["in.gguf"]).write("out.gguf")  # doctest: +SKIP
    """
    return Operation(recipe, inputs, given=given)


def prepare_replay(
    made: str | Path, inputs: Sequence[str | Path], *, given: Mapping[str, Any] | None = None
) -> Operation:
    """The operation that made a file, on the same inputs once more.

    Args:
        given: arrays that its recipe names (those of `heal`).

    Raises:
        FormatError: `made` has no provenance, or the inputs are not those it came from.
    """
    with Source(made) as source:
        known = read_provenance(source.header)
    if len(inputs) != len(known.sources):
        raise PlanError(
            "another number of inputs than the file was made from",
            expected=", ".join(known.sources),
            found=len(inputs),
        )
    for path, name, expected in zip(inputs, known.sources, known.checksums, strict=True):
        with Source(path) as source:
            found = source.checksum(full=not expected.startswith("sampled-"))
        if found != expected:
            raise FormatError(
                "not the file that the operation was done on",
                file=path,
                expected=f"{name} with {expected}",
                found=found,
            )
    recipe = known.recipe.with_files_of([Path(), *(Path(p).parent for p in (made, *inputs))])
    # The names as they were: an input that was renamed since is still the same input.
    return Operation(recipe, inputs, version=known.version, names=known.sources, given=given)


def _label(header: Header, infos: Sequence[TensorInfo]) -> str:
    n_experts = header.get("{arch}.expert_count")
    return counted_size_label(infos, n_experts if isinstance(n_experts, int) else 0)


def _mends_split(recipe: Recipe) -> bool:
    """Whether a step removes what makes a whole file one of several."""
    unset = (dict(s.arguments).get("key") for s in recipe.steps if s.operation == "unset")
    return any(key in SPLIT_KEYS for key in unset)


def _layers_of(header: Header) -> tuple[ArchRules | None, Plan]:
    """The rules and the plan of a file whose layers stay; neither where it has none to name."""
    try:
        rules = rules_for(header, allow_unknown=True)
        return rules, Plan.identity(header.n_layers, rules.n_tail(header))
    except (FormatError, ArchitectureError):
        return None, Plan.identity(0)


def _check_text(recipe: Recipe) -> None:
    """Refuse new text that is no Unicode; entries and tensors of any name can be removed."""
    told = [a for s in recipe.steps if s.operation not in HEADER_STEPS for a in s.arguments]
    try:
        json.dumps([recipe.name, told], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = repr(error.object[max(0, error.start - 20) : error.end])
        raise PlanError("a name or argument is no valid Unicode", found=found) from None


def _options(recipe: Recipe) -> dict[str, Any]:
    options = dict(recipe.options)
    for key, value in options.items():
        if key not in OPTIONS:
            raise PlanError(f"unknown option {key!r}; known: {', '.join(OPTIONS)}")
        if not isinstance(value, OPTIONS[key]):
            raise PlanError(f"option {key}", expected=OPTIONS[key].__name__, found=repr(value))
    return options


def _without_own(metadata: Mapping[str, Value]) -> dict[str, Value]:
    keep_out = (
        *(PREFIX + k for k in ("version", "recipe", "sources", "checksums", "digest", "history")),
        PADDING_KEY,
        *SPLIT_KEYS,  # every output is one file
    )
    return {k: v for k, v in metadata.items() if k not in keep_out}
