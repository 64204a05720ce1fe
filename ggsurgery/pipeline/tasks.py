"""The steps of a recipe as tasks: what each depends on, makes, and how.

source ─ [laco] ─ cut ─┬─ imatrix ─┐
                       └───────────┴─ quantize TYPE … ─ MEASUREMENT FILE … ─ [say] ─ release
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EngineError, PlanError
from ..files.atomic import atomic_path
from ..files.fields import FieldError, Fields, mapping, read_json
from ..files.text import read_corpus
from ..find.laco import Settings, laco_of_file, split_text
from ..ggufio.reader import Source
from ..measure.results.result_files import load_results
from ..plan.recipe import Recipe
from ..quantize.like import with_pins
from ..release.request import safe_name
from ..runtime import worker
from ..runtime.binding import installed_version
from ..runtime.filetypes import file_type
from ..runtime.imatrix_need import file_needs_imatrix
from ..runtime.quantize import quantize
from ..surgery.prepare import prepare
from . import cautions
from .bundle_inputs import bundle_request, check_release, licence
from .document import Document
from .evaluation import Measurement, measurements, sha256_of
from .paths import Places
from .sample import say
from .state import Progress, key_of


@dataclass(frozen=True)
class Task:
    """One step. `make` writes `files` and returns figures that JSON can hold."""

    name: str
    what: str
    key: str
    files: tuple[Path, ...]
    make: Callable[[Progress], Any]


def tasks_of(document: Document, source: Path, places: Places) -> list[Task]:
    """All tasks of a recipe in their order.

    Raises:
        EngineError: an unknown file type, or one that needs an imatrix the recipe lacks.
    """
    types = _types(document)
    if document.section("release") is not None:
        check_release(document, types)
    with Source(source) as opened:
        checksum, n_layers = opened.checksum(), opened.header.n_layers
    tasks = []
    if document.section("laco"):
        tasks.append(_laco(document, source, places, checksum, n_layers))
    tasks.append(_cut(document, source, places, [checksum, *(t.key for t in tasks)]))
    cut = tasks[-1].key
    base = [cut]
    if document.section("imatrix"):
        tasks.append(_imatrix(document, places, cut))
        base.append(tasks[-1].key)
    made = {"cut": (places.cut, cut)}
    for ftype in types:
        task = _quantize(document, places, source, ftype, base)
        tasks.append(task)
        made[ftype] = (task.files[0], task.key)
    original = (source, key_of("source", checksum, []))
    chosen = _recommended(document, made)
    for asked in measurements(document, source):
        if asked.of_source:
            tasks.append(_measure(places, asked, "source", *original, []))
        on = [] if asked.of_source else [original[1]]
        if asked.needs:
            on += [t.key for t in tasks if t.name == f"{asked.needs} {chosen}"]
        names = [chosen] if asked.needs else made
        tasks += [_measure(places, asked, name, *made[name], on) for name in names]
    if (document.section("evaluate") or {}).get("say"):
        tasks.append(_say(document, places, *made[chosen]))
    if document.section("release") is not None:
        keys = [task.key for task in tasks]
        tasks.append(_release(document, places, source, {n: p for n, (p, _) in made.items()}, keys))
    return tasks


def _types(document: Document) -> list[str]:
    """The file types, checked: all of them exist, and an imatrix is there for those in need."""
    section = document.section("quantize") or {}
    types = [file_type(str(t))[0] for t in section.get("types", ())]
    needy = [t for t in types if file_needs_imatrix(t, pure=bool(section.get("pure")))]
    if needy and not document.section("imatrix"):
        raise EngineError(
            f"llama.cpp makes {', '.join(needy)} only with an importance matrix",
            file=document.path,
            hint="Add a section imatrix: {text: FILE} to the recipe.",
        )
    return types


#: Keys of the section `laco` that say which text is read and how.
_CALIBRATION = ("text", "texts", "ctx", "parse_special")


def laco_settings(document: Document) -> Settings:
    """LaCo's numbers as the recipe's section `laco` gives them."""
    section = document.section("laco") or {}
    return Settings(**{k: v for k, v in section.items() if k not in _CALIBRATION})


def _laco(document: Document, source: Path, places: Places, checksum: str, n_layers: int) -> Task:
    section = document.section("laco") or {}
    text = document.file(str(section["text"]))
    settings = laco_settings(document)
    settings.check(n_layers)

    def make(progress: Progress) -> Any:
        pieces = split_text(read_corpus(text), section.get("texts", 10))
        found = worker.run(
            laco_of_file,
            source,
            pieces,
            settings,
            section.get("ctx", 256),
            parse_special=section.get("parse_special", False),
            progress=progress,
        )
        facts = found.to_json()
        _write_json(places.laco, facts)
        kept = {k: facts[k] for k in ("layers", "merges", "rejected", "iterations", "similarity")}
        loss = found.perplexity
        return kept | {"warnings": [] if loss is None else cautions.of_loss(*loss)}

    key = key_of(
        "laco", {**section, "text": sha256_of(text)}, [checksum], llama_cpp=installed_version()
    )
    return Task("laco", f"calibrated on {text.name}", key, (places.laco,), make)


def read_laco(path: Path) -> Recipe:
    """The recipe that a run of LaCo found and wrote down.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        return Recipe.from_json(Fields(read_json(path)).get("recipe", mapping), path)
    except FieldError as error:
        raise error.at(file=path) from None


def recipe_of(document: Document, places: Places) -> Recipe:
    """The operations of a run: the recipe's own, behind those that LaCo has found.

    Raises:
        PlanError: LaCo kept no merge.
    """
    if not document.section("laco"):
        return document.recipe
    found = read_laco(places.laco)
    if not found.steps:
        raise PlanError(
            "LaCo kept no merge, so there is nothing to cut",
            file=places.laco,
            hint="Lower laco.threshold in the recipe, or take another laco.variant.",
        )
    return replace(document.recipe, steps=(*found.steps, *document.recipe.steps))


def _cut(document: Document, source: Path, places: Places, on: Sequence[str]) -> Task:
    def make(progress: Progress) -> Any:
        recipe = recipe_of(document, places)

        @contextmanager
        def stages(_name: str, total: int) -> Iterator[Callable[[int], None]]:
            done = 0

            def tick(n: int) -> None:
                nonlocal done
                done += n
                progress(done, total)

            yield tick

        with prepare(recipe, [source]) as prepared:
            warnings = prepared.warnings
            warnings += prepared.write(places.cut, force=True, stages=stages).warnings
            if document.section("template"):
                text = str(prepared.layout.metadata["tokenizer.chat_template"].value)
                warnings += cautions.of_template(text, prepared.shell)
            facts = prepared.summary
        return {
            "operations": facts.operation or "none",
            "layers": list(facts.layers),
            "parameters": list(facts.parameters),
            "bytes": list(facts.bytes),
            "warnings": warnings,
        }

    what = _short(document.recipe.describe()) or "a copy with a new name"
    if document.section("laco"):
        what = "the merges that LaCo kept"
    key = key_of("cut", document.recipe.to_json(), on)
    return Task("cut", what, key, (places.cut,), make)


def _short(text: str, width: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _imatrix(document: Document, places: Places, cut: str) -> Task:
    section = document.section("imatrix") or {}
    text = document.file(str(section["text"]))
    options = {"n_ctx": section.get("ctx", 512), "n_chunks": section.get("chunks")}
    if section.get("parse_special"):
        options["parse_special"] = True

    def make(progress: Progress) -> Any:
        from ..ggufio.imatrix import write_imatrix
        from ..runtime.imatrix_collect import collect

        matrix = worker.run(
            collect, places.cut, read_corpus(text), dataset=text.name, progress=progress, **options
        )
        write_imatrix(matrix, places.imatrix, force=True)
        return {
            "text": text.name,
            "entries": len(matrix.entries),
            "chunks": matrix.n_chunks,
            "warnings": cautions.of_imatrix(matrix),
        }

    settings = {**options, "text": sha256_of(text)}
    key = key_of("imatrix", settings, [cut], llama_cpp=installed_version())
    return Task("imatrix", f"from {text.name}", key, (places.imatrix,), make)


def quantize_options(
    document: Document, imatrix: Path, source: Path, model: Path, ftype: str
) -> dict[str, Any]:
    """The keyword arguments of `runtime.quantize` that a recipe asks for.

    Args:
        imatrix: the importance matrix, or one that stands for it; used where the recipe has one.
        model: the cut model, or a file with its header.
    """
    section = document.section("quantize") or {}
    options = {k: v for k, v in section.items() if k not in ("types", "pin")}
    options.setdefault("allow_requantize", True)  # warned of, as the command does
    if document.section("imatrix"):
        options["imatrix"] = imatrix.absolute()  # so the header names it without folders
    return with_pins(model, source, ftype, options) if section.get("pin") else options


def _quantize(
    document: Document, places: Places, source: Path, ftype: str, base: Sequence[str]
) -> Task:
    section = document.section("quantize") or {}
    out = places.quantized(ftype)

    def make(progress: Progress) -> Any:
        options = quantize_options(document, places.imatrix, source, places.cut, ftype)
        result = quantize(places.cut, out, ftype, force=True, progress=progress, **options)
        facts = result.to_json()
        kept = {k: facts[k] for k in ("type", "bytes", "bpw", "fallbacks", "requantized")}
        warnings, notes = cautions.of_lacking_entries(result), cautions.of_fallbacks(result)
        return kept | {"warnings": warnings, "notes": notes}

    settings = {"type": ftype, **{k: v for k, v in section.items() if k != "types"}}
    key = key_of("quantize", settings, base, llama_cpp=installed_version())
    return Task(f"quantize {ftype}", out.name, key, (out,), make)


def _measure(
    places: Places, asked: Measurement, name: str, path: Path, key: str, on: Sequence[str]
) -> Task:
    out = places.result(name, asked.name)

    def make(progress: Progress) -> Any:
        needed = [places.result(name, asked.needs)] if asked.needs else []
        results, warnings = asked.measure(path, progress, *(load_results(p)[0] for p in needed))
        _write_json(out, results.to_json())
        figures: dict[str, Any] = {s.label: [s.value, s.stderr, s.n] for s in results.all_scores}
        figures |= {"verdict": results.verdict} if results.verdict else {}
        return figures | ({"warnings": warnings} if warnings else {})

    settings = {"name": asked.name, "settings": asked.settings}
    key = key_of("measure", settings, [key, *on], llama_cpp=installed_version())
    return Task(f"{asked.name} {name}", path.name, key, (out,), make)


def _recommended(document: Document, made: Mapping[str, object]) -> str:
    """The file that the controls are for and that says something.

    The one that the release recommends by name, else Q4_K_M, else the first type; the cut itself
    where nothing is quantized.
    """
    wanted = str((document.section("release") or {}).get("recommended", "Q4_K_M"))
    return wanted if wanted in made else next((n for n in made if n != "cut"), "cut")


def _say(document: Document, places: Places, path: Path, key: str) -> Task:
    section = (document.section("evaluate") or {})["say"]
    question, length = str(section["prompt"]), int(section.get("max_tokens", 48))

    def make(progress: Progress) -> Any:
        said = worker.run(say, path, question, length)
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
    document: Document, places: Places, source: Path, files: Mapping[str, Path], on: Sequence[str]
) -> Task:
    section = document.section("release") or {}

    def make(progress: Progress) -> Any:
        from ..release.bundle import build_bundle

        made = build_bundle(
            bundle_request(document, places, source, files),
            places.bundle,
            force=True,
            progress=progress,
        )
        names = [str(p.relative_to(places.folder)) for p in made.files]
        warnings = cautions.of_bundle(made)
        return {"files": names, "warnings": warnings, "errors": list(made.errors)}

    text = licence(document)
    given = [document.file(str(name)) for name in section.get("results", ())]
    given += [text] if isinstance(text, Path) else []
    settings = {
        "section": section,
        "name": document.name,
        "files": [sha256_of(file) for file in given],
        "recipe": sha256_of(document.path),  # the manifest holds it
    }
    key = key_of("release", settings, on)
    stem = safe_name(document.name)
    models = [f"{stem}-{ftype}.gguf" for ftype in _types(document)]
    names = ["manifest.json", "SHA256SUMS", "README.md", "Modelfile", *models]
    names += [f"Modelfile.{ftype}" for ftype in _types(document)]
    names += ["LICENSE"] if isinstance(text, Path) else []
    return Task("release", "bundle/", key, tuple(places.bundle / n for n in names), make)
