"""From a recipe and input files to an output file: the whole way in one call.

with prepare(recipe, ["in.gguf"]) as prepared:
    print(prepared.summary.bytes)       # a dry run stops here
    prepared.write("out.gguf")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..arch import ArchRules, MetadataChange, rules_for
from ..errors import ArchitectureError, FormatError, PlanError, printable
from ..ggufio.changes import PADDING_KEY
from ..ggufio.constants import Keys
from ..ggufio.new_value import new_value
from ..ggufio.reader import Source
from ..ggufio.split import KEYS as SPLIT_KEYS
from ..ggufio.types import Header, TensorInfo, Value, type_id
from ..plan.edits import TrimVocab
from ..plan.ops import drop_tail
from ..plan.recipe import HEADER_STEPS, PLAIN_STEPS, Recipe
from ..plan.types import Plan
from .layout import Compute, Pieces, lay_out, pieces_as_they_are, pieces_of
from .metadata import edited
from .naming import counted_size_label, new_file_type, new_identity, new_quantization_version
from .prepared import PreparedSurgery
from .provenance import PREFIX, entries, read_provenance

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


def prepare(
    recipe: Recipe, inputs: Sequence[str | Path], *, given: Mapping[str, Any] | None = None
) -> PreparedSurgery:
    """Open the inputs, apply the recipe and decide the whole output, without writing.

    Args:
        given: arrays that the recipe names (those of `heal`), and the map of a trimmed
            vocabulary that is not in its file yet.

    Raises:
        FormatError: an input is damaged.
        PlanError: an operation cannot be done.
        ArchitectureError: layers would lose their meaning.

    Example:
        >>> from ggsurgery.plan.recipe import Recipe, step
        >>> recipe = Recipe((step("delete", layer="10"),))
        >>> prepare(recipe, ["in.gguf"]).write("out.gguf")  # doctest: +SKIP
    """
    return _prepare(recipe, inputs, given)


def prepare_replay(
    made: str | Path, inputs: Sequence[str | Path], *, given: Mapping[str, Any] | None = None
) -> PreparedSurgery:
    """The surgery that made a file, on the same inputs once more.

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
    return _prepare(recipe, inputs, given, version=known.version, names=known.sources)


def _prepare(
    recipe: Recipe,
    inputs: Sequence[str | Path],
    given: Mapping[str, Any] | None,
    *,
    version: str = __version__,
    names: tuple[str, ...] | None = None,
) -> PreparedSurgery:
    _check_text(recipe)
    options = _options(recipe)
    alone = _mends_split(recipe)
    with ExitStack() as opened:
        sources = [opened.enter_context(Source(path, alone=alone)) for path in inputs]
        headers = [source.header for source in sources]
        gone: tuple[str, ...] = ()
        # Entries and the list of tensors change, and nothing else: any GGUF file will do.
        plain = bool(recipe.steps) and all(s.operation in PLAIN_STEPS for s in recipe.steps)
        if plain and len(headers) == 1 and not options.keys() & _OF_LAYERS:
            rules, before = _layers_of(headers[0])
            plan = _planned(recipe, before, headers[0])
            change, pieces = MetadataChange(), pieces_as_they_are(plan, headers[0])
        else:
            allow = options.get("allow_unknown_arch", False)
            rules = rules_for(headers[0], allow_unknown=allow)
            before = Plan.identity(headers[0].n_layers, rules.n_tail(headers[0]))
            plan = _planned(recipe, before, headers[0])
            _check_inputs(headers, plan)
            force = options.get("force_kinds", False)
            change = rules.rewrite(headers, plan, force_kinds=force)
            asked = options.get("out_type")
            kind = None if asked is None else type_id(asked)
            pieces = pieces_of(plan, headers, change, out_type=kind)
            for edit in plan.edits:
                if isinstance(edit, TrimVocab):
                    pieces, gone = _trimmed(edit, headers[plan.shell], pieces, change, given)
        metadata = _without_own(headers[plan.shell].metadata) | change.set
        metadata = {k: v for k, v in metadata.items() if k not in gone}
        metadata |= _identity(metadata, headers, plan, pieces, recipe)
        metadata, notes = edited(headers[plan.shell], metadata, plan.metadata)
        recorded = recipe.without_folders()
        known = plan if recorded == recipe else _planned(recorded, before, headers[0])
        sums = [source.checksum(full=options.get("full_checksum", False)) for source in sources]
        names = names or tuple(printable(h.path.name) for h in headers)
        metadata |= entries(known, recorded, names, headers, sums, version)
        pieces = replace(pieces, warnings=(*dict.fromkeys((*pieces.warnings, *notes)),))
        layout = lay_out(pieces, metadata, headers, plan.shell)
        opened.pop_all()
    return PreparedSurgery(recipe, tuple(sources), names, rules, before, plan, layout, given)


def _trimmed(
    edit: TrimVocab,
    header: Header,
    pieces: Pieces,
    change: MetadataChange,
    given: Mapping[str, Any] | None,
) -> tuple[Pieces, tuple[str, ...]]:
    """The tensors of the tokens that stay, and the entries that leave; `change` gets the rest."""
    from .trim_vocab import rewrite, trimmed
    from .vocab_map import map_of

    kept = map_of(edit, (given or {}).get(edit.map))
    entries, gone = rewrite(header, kept)
    change.set |= entries
    return trimmed(pieces, kept), gone


def _check_inputs(headers: Sequence[Header], plan: Plan) -> None:
    if plan.n_sources != len(headers):
        raise PlanError(
            "another number of inputs than the recipe takes",
            file=headers[0].path,
            expected=plan.n_sources,
            found=len(headers),
        )
    if len(headers) > 1:
        from ..tensors.compatible import check_alike

        check_alike(headers, plan)


def _identity(
    metadata: dict[str, Value],
    headers: Sequence[Header],
    plan: Plan,
    pieces: Pieces,
    recipe: Recipe,
) -> dict[str, Value]:
    """Name, size label, file type and quantization version of the output."""
    shell, recorded = headers[plan.shell], recipe.without_folders()
    if not plan.stack:
        name = Keys.General.NAME
        return {} if recorded.name is None else {name: new_value(name, recorded.name, shell)[0]}
    done = "; ".join(s.describe() for s in recorded.steps if s.operation not in PLAIN_STEPS)
    found = new_identity(metadata, _label(shell, pieces.infos), done, recorded.name)
    computed = [p.info for p in pieces.items if isinstance(p.job, Compute)]
    if computed or len(headers) > 1:
        found |= new_file_type(metadata, shell.tensors, pieces.infos)
        found |= new_quantization_version(metadata, computed)
    return found


def _planned(recipe: Recipe, before: Plan, header: Header) -> Plan:
    try:
        plan = recipe.apply(before)
    except PlanError as error:  # operations know layers, not files
        raise error.at(file=header.path) from error
    return drop_tail(plan) if dict(recipe.options).get("drop_mtp") else plan


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
    """Refuse new text that is not Unicode; entries and tensors of any name can be removed."""
    recorded = [a for s in recipe.steps if s.operation not in HEADER_STEPS for a in s.arguments]
    try:
        json.dumps([recipe.name, recorded], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = repr(error.object[max(0, error.start - 20) : error.end])
        raise PlanError("a name or argument is not valid Unicode", found=found) from None


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
