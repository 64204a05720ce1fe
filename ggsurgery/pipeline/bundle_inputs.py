"""What a run hands to the release: its files, everything measured, the recipe itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..evaluate.results import Results, load_results, read_json
from ..release.request import Request
from ..runtime import worker
from ..runtime.memory import peak_memory
from .document import Document
from .tasks import Places


def bundle_request(
    document: Document, places: Places, source: Path, files: Sequence[Path]
) -> Request:
    """Gather the release of a run.

    Args:
        files: the cut model and its quantized files; the cut itself is released only if
            nothing was quantized.
    """
    section = document.section("release") or {}
    released = tuple(files[1:]) or tuple(files)
    results = [r for path in released for r in _results(places.results(path))]
    for name in section.get("results", ()):
        results += load_results(document.file(str(name)))
    original = _results(places.results(source))
    memory = (
        {path.name: worker.run(peak_memory, path) for path in released}
        if section.get("memory", True)
        else {}
    )
    licence = section.get("license")
    said = read_json(places.said) if places.said.is_file() else None
    return Request(
        files=released,
        name=document.name,
        family=section.get("family"),
        base_model=section.get("base_model"),
        license=None if licence is None else document.file(str(licence)),
        system=section.get("system"),
        recommended=section.get("recommended"),
        languages=tuple(section.get("languages", ())),
        tags=tuple(section.get("tags", ())),
        parameters=section.get("parameters") or {},
        original=original[0] if original else None,
        results=tuple(results),
        said=said,
        memory=memory,
        recipe=document.path.read_text(encoding="utf-8"),
    )


def _results(path: Path) -> list[Results]:
    return load_results(path) if path.is_file() else []
