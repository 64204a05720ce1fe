"""Inputs of the release from a run: its files, everything measured, the recipe itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..chat.families import family
from ..errors import FormatError
from ..files.fields import read_json
from ..files.installation import require
from ..files.text import MAX_SMALL, read_text
from ..jobs.release import ReleaseSettings, memory_of
from ..jobs.say import read_said
from ..measure.results.recovery import read_recovery
from ..measure.results.result_files import load_results, merge_results
from ..release.licence import licence_of
from ..release.modelfile import check_parameters
from ..release.origin import check_origin
from ..release.request import Request
from .document import Document
from .evaluation import measurements, results_of
from .paths import Places


def check_release(document: Document, types: Sequence[str]) -> None:
    """Refuse before the work what the release at its end could not be made with.

    Raises:
        FormatError: no such file, family, type or PARAMETER.
        MissingExtraError: huggingface_hub is not installed.
    """
    section = document.file.release or ReleaseSettings()
    wanted = section.recommended
    if wanted is not None and wanted not in types:
        raise FormatError(
            "release.recommended",
            file=document.path,
            found=wanted,
            expected=f"one of quantize.types: {', '.join(types)}",
        )
    document.check_files(section)
    if (text := licence(document)) is not None and isinstance(text, Path):
        read_text(text, MAX_SMALL)
    if section.family is not None:
        family(section.family)
    check_parameters(section.parameters)
    check_origin(section.base_model, section.repo, section.relation)
    require("huggingface_hub", "hub", "a model card")


def licence(document: Document) -> Path | str | None:
    """The licence's file or identifier that the recipe names.

    Raises:
        FormatError: neither a file nor a known identifier.
    """
    name = None if document.file.release is None else document.file.release.license
    if name is None:
        return None
    try:
        return licence_of(name, document.folder / name)
    except FormatError as error:
        raise FormatError(
            f"release.license: {name} is {error.problem}",
            file=document.path,
            expected=error.expected,
            hint=error.hint,
        ) from None


def bundle_request(
    document: Document, places: Places, source: Path, files: Mapping[str, Path]
) -> Request:
    """Gather the release of a run.

    Args:
        files: the cut model (`cut`) and its quantized files by type; the cut itself is
            released only if nothing was quantized.
    """
    section = document.file.release or ReleaseSettings()
    asked = measurements(document, source)
    given = [r for path in section.results for r in load_results(path)]
    of_source = [r for r in given if Path(r.model.file).name == source.name]
    measured = results_of(places.results("source", asked))
    found = [*([measured] if measured else []), *of_source]
    alike = [replace(r, model=replace(r.model, file=str(source))) for r in found]
    original = merge_results(alike)[0] if alike else None
    released = {n: p for n, p in files.items() if n != "cut"} or dict(files)
    results = [results_of(places.results(name, asked), original) for name in released]
    memory = memory_of(released.values()) if section.memory else {}
    said = read_said(places.said) if places.said.is_file() else None
    return section.bundle(
        released.values(),
        document.name,
        licence(document),
        original=original,
        results=(*(r for r in results if r is not None), *(r for r in given if r not in of_source)),
        laco=read_json(places.laco) if document.file.laco is not None else None,
        recovery=read_recovery(places.recovery) if places.recovery.is_file() else None,
        said=said,
        memory=memory,
        recipe=read_text(document.path, MAX_SMALL),
    )
