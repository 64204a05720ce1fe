"""The steps of a recipe as tasks: what each depends on, makes, and how.

source ─ cut ─┬─ imatrix ─┐
              └───────────┴─ quantize TYPE … ─ evaluate FILE … ─ release
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..evaluate.perplexity import perplexity_of_file, read_text
from ..evaluate.results import Results, model_facts
from ..evaluate.score import Score
from ..ggufio.atomic import atomic_path
from ..ggufio.reader import Source
from ..release.request import safe_name
from ..runtime import worker
from ..runtime.binding import installed_version
from ..runtime.filetypes import file_type
from ..runtime.quantize import quantize
from ..surgery import prepare
from . import measure
from .document import Document
from .state import key_of

#: Called with (done, total) of the running task.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """One step. `make` writes `files` and returns figures that JSON can hold."""

    name: str
    what: str
    key: str
    files: tuple[Path, ...]
    make: Callable[[Progress], Any]


@dataclass(frozen=True)
class Places:
    """Where a run keeps things below its folder."""

    folder: Path
    name: str

    @property
    def cut(self) -> Path:
        return self.folder / f"{self.name}.gguf"

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

    def results(self, path: Path) -> Path:
        return self.folder / "results" / f"{path.stem}.json"


def tasks_of(document: Document, source: Path, places: Places) -> list[Task]:
    """All tasks of a recipe in their order.

    Raises:
        EngineError: an unknown file type, or one that needs an imatrix the recipe lacks.
    """
    types = _types(document)
    with Source(source) as opened:
        checksum = opened.checksum()
    tasks = [_cut(document, source, places, checksum)]
    cut = tasks[0].key
    base = [cut]
    if document.section("imatrix"):
        tasks.append(_imatrix(document, places, cut))
        base.append(tasks[-1].key)
    made = [(places.cut, cut)]
    for ftype in types:
        task = _quantize(document, places, ftype, base)
        tasks.append(task)
        made.append((task.files[0], task.key))
    if document.section("evaluate"):
        original = (source, key_of("source", checksum, []))
        tasks += [_evaluate(document, places, *one) for one in (original, *made)]
        if (document.section("evaluate") or {}).get("say"):
            tasks.append(_say(document, places, *_speaker(document, made)))
    if document.section("release") is not None:
        keys = [task.key for task in tasks]
        tasks.append(_release(document, places, source, [p for p, _ in made], keys))
    return tasks


def _types(document: Document) -> list[str]:
    """The file types, checked: all of them exist, and an imatrix is there for those in need."""
    section = document.section("quantize") or {}
    types = [file_type(str(t))[0] for t in section.get("types", ())]
    needy = [t for t in types if t.startswith(("IQ1", "IQ2")) or t in ("Q2_K_S", "IQ3_XXS")]
    if needy and not document.section("imatrix"):
        raise EngineError(
            f"llama.cpp makes {', '.join(needy)} only with an importance matrix",
            file=document.path,
            hint="Add a section imatrix: {text: FILE} to the recipe.",
        )
    return types


def _cut(document: Document, source: Path, places: Places, checksum: str) -> Task:
    recipe = document.recipe

    def make(progress: Progress) -> Any:
        with prepare(recipe, [source]) as operation:
            total, written = operation.layout.n_bytes, 0

            def told(n: int) -> None:
                nonlocal written
                written += n
                progress(written, total)

            operation.write(places.cut, force=True, progress=told)
            before = operation.headers[0]
            return {
                "operations": recipe.describe() or "none",
                "layers": [before.n_layers, operation.plan.n_layers],
                "parameters": [before.n_parameters, operation.layout.n_parameters],
                "bytes": [sum(before.file_size), total],
                "warnings": list(operation.layout.warnings),
            }

    what = _short(recipe.describe()) or "a copy with a new name"
    key = key_of("cut", recipe.to_json(), [checksum])
    return Task("cut", what, key, (places.cut,), make)


def _short(text: str, width: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _imatrix(document: Document, places: Places, cut: str) -> Task:
    section = document.section("imatrix") or {}
    text = document.file(str(section["text"]))
    options = {"n_ctx": section.get("ctx", 512), "n_chunks": section.get("chunks")}

    def make(progress: Progress) -> Any:
        from ..imatrix import write_imatrix
        from ..runtime.imatrix_collect import collect

        matrix = worker.run(
            collect, places.cut, read_text(text), dataset=text.name, progress=progress,
            **options,
        )  # fmt: skip
        write_imatrix(matrix, places.imatrix, force=True)
        return {"text": text.name, "entries": len(matrix.entries), "chunks": matrix.n_chunks}

    settings = {**options, "text": _sha256(text)}
    key = key_of("imatrix", settings, [cut], llama_cpp=installed_version())
    return Task("imatrix", f"from {text.name}", key, (places.imatrix,), make)


def quantize_options(document: Document, places: Places) -> dict[str, Any]:
    """The keyword arguments of `runtime.quantize` that a recipe asks for."""
    section = document.section("quantize") or {}
    options = {k: v for k, v in section.items() if k != "types"}
    if document.section("imatrix"):
        options["imatrix"] = places.imatrix
    return options


def _quantize(document: Document, places: Places, ftype: str, base: Sequence[str]) -> Task:
    options = quantize_options(document, places)
    out = places.quantized(ftype)

    def make(progress: Progress) -> Any:
        result = quantize(places.cut, out, ftype, force=True, progress=progress, **options)
        facts = result.to_json()
        return {k: facts[k] for k in ("type", "bytes", "bpw", "fallbacks", "requantized")}

    settings = {"type": ftype, **{k: v for k, v in options.items() if k != "imatrix"}}
    key = key_of("quantize", settings, base, llama_cpp=installed_version())
    return Task(f"quantize {ftype}", out.name, key, (out,), make)


def _evaluate(document: Document, places: Places, path: Path, key: str) -> Task:
    section = document.section("evaluate") or {}
    out = places.results(path)
    asked = section.get("perplexity")
    text = document.file(str(asked["text"])) if asked else None
    options = {"n_ctx": (asked or {}).get("ctx", 512), "n_chunks": (asked or {}).get("chunks")}

    def make(progress: Progress) -> Any:
        scores: list[Score] = []
        if text is not None:
            found = worker.run(
                perplexity_of_file, path, read_text(text), progress=progress, **options
            )
            facts = {**found.score.provenance, "text": text.name}
            scores.append(replace(found.score, provenance=facts))
        results = Results(model_facts(path), tuple(scores))
        _write_json(out, results.to_json())
        return {s.metric: [s.value, s.stderr, s.n] for s in scores}

    settings = {**options, "sha256": _sha256(text) if text else None}
    key = key_of("evaluate", settings, [key], llama_cpp=installed_version())
    return Task(f"evaluate {path.stem}", out.name, key, (out,), make)


def _speaker(document: Document, made: Sequence[tuple[Path, str]]) -> tuple[Path, str]:
    """The file that says something: the recommended one, Q4_K_M, or the first."""
    wanted = (document.section("release") or {}).get("recommended", "Q4_K_M")
    return next((one for one in made if one[0].stem.endswith(f"-{wanted}")), made[0])


def _say(document: Document, places: Places, path: Path, key: str) -> Task:
    section = (document.section("evaluate") or {})["say"]
    question, length = str(section["prompt"]), int(section.get("max_tokens", 48))

    def make(progress: Progress) -> Any:
        said = worker.run(measure.say, path, question, length)
        _write_json(places.said, {"file": path.name, **said})
        return said

    key = key_of("say", section, [key], llama_cpp=installed_version())
    return Task("say", path.name, key, (places.said,), make)


def _write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path, force=True) as temporary:
        text = json.dumps(document, ensure_ascii=False, indent=1)
        temporary.write_text(text, encoding="utf-8")


def _release(
    document: Document, places: Places, source: Path, files: Sequence[Path], on: Sequence[str]
) -> Task:
    section = document.section("release") or {}

    def make(progress: Progress) -> Any:
        from ..release.bundle import build_bundle
        from .bundle_inputs import bundle_request

        made = build_bundle(
            bundle_request(document, places, source, files), places.bundle, force=True,
            progress=progress,
        )  # fmt: skip
        return {"files": [str(p.relative_to(places.folder)) for p in made.files]}

    key = key_of("release", {"section": section, "name": document.name}, on)
    stem = safe_name(document.name)
    models = [f"{stem}-{ftype}.gguf" for ftype in _types(document)]
    names = ["manifest.json", "SHA256SUMS", "README.md", "Modelfile", *models]
    return Task("release", "bundle/", key, tuple(places.bundle / n for n in names), make)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
