"""The steps of a recipe as tasks, with their inputs, outputs and work.

source ─ [laco] ─ cut ─ [heal] ─ [distil] ─┬─ imatrix ─┐
                                           └───────────┴─ quantize TYPE …
         ─ MEASUREMENT FILE … ─ [recovery] ─ [say] ─ release
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import EngineError, PlanError
from ..files.atomic import atomic_path
from ..files.digest import sha256_of_file
from ..files.fields import FieldError, Fields, mapping, read_json
from ..files.progress import Progress
from ..ggufio.reader import Source
from ..jobs import cautions
from ..jobs.imatrix import ImatrixRequest
from ..jobs.laco import LacoRequest
from ..jobs.quantize import QuantizeRequest
from ..jobs.say import SayRequest
from ..measure.results.result_files import load_results
from ..plan.recipe import Recipe
from ..quantize.like import with_pins
from ..release.request import safe_name
from ..runtime.binding import installed_version
from ..runtime.filetypes import file_type
from ..runtime.imatrix_need import file_needs_imatrix
from ..surgery.prepare import prepare
from ..surgery.write import stages_of
from .bundle_inputs import bundle_request, check_release, licence
from .document import Document
from .evaluation import Measurement, measurements
from .paths import Places
from .recovery import distil_step, heal_step
from .state import key_of
from .width import narrowed, settings_of
from .won_back import won_back

#: The work of a step.
Kind = Literal[
    "laco", "cut", "heal", "distil", "imatrix", "quantize", "measure", "recovery", "say", "release"
]


@dataclass(frozen=True)
class Task:
    """One step. `make` writes `files` and returns figures that JSON can hold.

    Args:
        subject: the measurement's name, or the file type.
        of: the model, `source`, `cut` or a type, that is measured.
    """

    kind: Kind
    what: str
    key: str
    files: tuple[Path, ...]
    make: Callable[[Progress], Any]
    subject: str = ""
    of: str = ""

    @property
    def name(self) -> str:
        """As the state file and messages name the step: `quantize Q8_0`, `kl cut`."""
        if self.kind == "measure":
            return f"{self.subject} {self.of}"
        return f"{self.kind} {self.subject}" if self.subject else self.kind


def tasks_of(document: Document, source: Path, places: Places) -> list[Task]:
    """All tasks of a recipe in their order.

    Raises:
        EngineError: an unknown file type, or one that needs an imatrix the recipe lacks.
    """
    types = _types(document)
    if document.file.release is not None:
        check_release(document, types)
    with Source(source) as opened:
        checksum, n_layers = opened.checksum(), opened.header.n_layers
    tasks = []
    if document.file.laco is not None:
        tasks.append(_laco(document, source, places, checksum, n_layers))
    tasks.append(_cut(document, source, places, [checksum, *(t.key for t in tasks)]))
    for stage in places.stages[1:]:
        step = heal_step if stage == "heal" else distil_step
        made_by = step(document, source, places, [tasks[-1].key])
        tasks.append(Task(stage, made_by.what, made_by.key, made_by.files, made_by.make))
    cut = tasks[-1].key
    base = [cut]
    if document.file.imatrix is not None:
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
            on += [t.key for t in tasks if (t.subject, t.of) == (asked.needs, chosen)]
        names = [chosen] if asked.needs else made
        tasks += [_measure(places, asked, name, *made[name], on) for name in names]
        if asked.name == "perplexity" and places.stages[1:]:
            stages = [t.key for t in tasks if t.kind in places.stages]
            key = key_of("recovery", asked.settings, [original[1], *stages])
            work = won_back(places, source, asked)
            tasks.append(Task("recovery", "of each step", key, (places.recovery,), work))
    if document.file.evaluate.say is not None:
        tasks.append(_say(document, places, *made[chosen]))
    if document.file.release is not None:
        keys = [task.key for task in tasks]
        tasks.append(_release(document, places, source, {n: p for n, (p, _) in made.items()}, keys))
    return tasks


def _types(document: Document) -> list[str]:
    """The file types, checked: all exist, and an imatrix is given for those that need one."""
    section = document.file.quantize
    if section is None:
        return []
    types = [file_type(t)[0] for t in section.types]
    needy = [t for t in types if file_needs_imatrix(t, pure=section.pure)]
    if needy and document.file.imatrix is None:
        raise EngineError(
            f"llama.cpp makes {', '.join(needy)} only with an importance matrix",
            file=document.path,
            hint="Add a section imatrix: {text: FILE} to the recipe.",
        )
    return types


def _laco(document: Document, source: Path, places: Places, checksum: str, n_layers: int) -> Task:
    section = document.file.laco
    assert section is not None
    document.check_files(section)
    request = section.extend(LacoRequest, file=source)
    request.numbers.check(n_layers)

    def make(progress: Progress) -> Any:
        found = request.run(progress)
        facts = found.laco.to_json()
        _write_json(places.laco, facts)
        kept = {k: facts[k] for k in ("layers", "merges", "rejected", "iterations", "similarity")}
        return kept | {"warnings": list(found.warnings)}

    text = Path(section.text)
    key = key_of(
        "laco",
        {**document.section("laco"), "text": sha256_of_file(text)},
        [checksum],
        llama_cpp=installed_version(),
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
    if document.file.laco is None:
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
    out = places.made("cut")

    def make(progress: Progress) -> Any:
        recipe, given, width = recipe_of(document, places), None, dict[str, Any]()
        if document.file.prune_width is not None:
            recipe, given, width = narrowed(document, source, places, progress)
        with prepare(recipe, [source], given=given) as prepared:
            warnings = [*width.pop("warnings", ()), *prepared.warnings]
            warnings += prepared.write(out, force=True, stages=stages_of(progress)).warnings
            if document.file.template is not None:
                text = str(prepared.layout.metadata["tokenizer.chat_template"].value)
                warnings += cautions.of_template(text, prepared.shell)
            facts = prepared.summary
        return {
            "operations": facts.operation or "none",
            "layers": list(facts.layers),
            "parameters": list(facts.parameters),
            "bytes": list(facts.bytes),
            **width,
            "warnings": warnings,
        }

    what = _short(document.recipe.describe()) or "a copy with a new name"
    if document.file.laco is not None:
        what = "the merges that LaCo kept"
    settings, files = document.recipe.to_json(), [out]
    if (section := document.file.prune_width) is not None:
        what = "fewer feed-forward channels"
        settings |= {"prune-width": settings_of(document), "llama_cpp": installed_version()}
        files += [places.sidecar("cut")] if section.sidecar and section.refit else []
    key = key_of("cut", settings, on)
    return Task("cut", what, key, tuple(files), make)


def _short(text: str, width: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _imatrix(document: Document, places: Places, cut: str) -> Task:
    section = document.file.imatrix
    assert section is not None
    document.check_files(section)
    request = section.extend(ImatrixRequest, file=places.cut, out=places.imatrix, force=True)
    text = Path(section.text)

    def make(progress: Progress) -> Any:
        found = request.run(progress)
        return {
            "text": text.name,
            "entries": len(found.matrix.entries),
            "chunks": found.matrix.n_chunks,
            "warnings": list(found.warnings),
        }

    key = {"n_ctx": section.ctx, "n_chunks": section.windows, "text": sha256_of_file(text)}
    for name in ("parse_special", "process_output"):  # only then: the keys of earlier runs stay
        key |= {name: True} if getattr(section, name) else {}
    on = key_of("imatrix", key, [cut], llama_cpp=installed_version())
    return Task("imatrix", f"from {text.name}", on, (places.imatrix,), make)


def quantize_options(
    document: Document, imatrix: Path, source: Path, model: Path, ftype: str
) -> dict[str, Any]:
    """The keyword arguments of `runtime.quantize` that a recipe asks for.

    Args:
        imatrix: the importance matrix, or a placeholder for it; used where the recipe has one.
        model: the cut model, or a file with its header.
    """
    section = document.file.quantize
    assert section is not None
    options = section.keywords()
    if document.file.imatrix is not None:
        options["imatrix"] = imatrix.absolute()  # so the header names it without folders
    return with_pins(model, source, ftype, options) if section.pin else options


def _quantize(
    document: Document, places: Places, source: Path, ftype: str, base: Sequence[str]
) -> Task:
    out, chosen = places.quantized(ftype), document.file.quantize
    assert chosen is not None
    request = QuantizeRequest(
        file=places.cut,
        out=out,
        type=ftype,
        # absolute, so that the header names it without folders
        imatrix=None if document.file.imatrix is None else places.imatrix.absolute(),
        pin=source if chosen.pin else None,
        force=True,
        **chosen.keywords(),
    )

    def make(progress: Progress) -> Any:
        planned = request.plan()
        found = planned.make(lambda _, done, total: progress(done, total))
        facts = found.results[0].to_json()
        kept = {k: facts[k] for k in ("type", "bytes", "bpw", "fallbacks", "requantized")}
        return kept | {"warnings": list(found.warnings), "notes": list(found.notes)}

    section = document.section("quantize")
    settings = {"type": ftype, **{k: v for k, v in section.items() if k != "types"}}
    key = key_of("quantize", settings, base, llama_cpp=installed_version())
    return Task("quantize", out.name, key, (out,), make, subject=ftype)


def _measure(
    places: Places, asked: Measurement, name: str, path: Path, key: str, on: Sequence[str]
) -> Task:
    out = places.result(name, asked.name)

    def make(progress: Progress) -> Any:
        needed = load_results(places.result(name, asked.needs))[0] if asked.needs else None
        found = asked.measure(path, progress, needed)
        results = found.results
        _write_json(out, results.to_json())
        figures: dict[str, Any] = {s.label: [s.value, s.stderr, s.n] for s in results.all_scores}
        figures |= {"verdict": results.verdict} if results.verdict else {}
        warnings = [asked.named(text) for text in found.warnings]
        return figures | ({"warnings": warnings} if warnings else {})

    settings = {"name": asked.name, "settings": asked.settings}
    key = key_of("measure", settings, [key, *on], llama_cpp=installed_version())
    return Task("measure", path.name, key, (out,), make, subject=asked.name, of=name)


def _recommended(document: Document, made: Mapping[str, object]) -> str:
    """The file that the controls and the sample answer use.

    The one that the release recommends by name, else Q4_K_M, else the first type; the cut itself
    where nothing is quantized.
    """
    release = document.file.release
    wanted = (release.recommended if release is not None else None) or "Q4_K_M"
    return wanted if wanted in made else next((n for n in made if n != "cut"), "cut")


def _say(document: Document, places: Places, path: Path, key: str) -> Task:
    section = document.file.evaluate.say
    assert section is not None
    request = section.extend(SayRequest, file=path)

    def make(progress: Progress) -> Any:
        said = request.run(progress)
        _write_json(places.said, {"file": path.name, **said})
        return said

    settings = document.section("evaluate", "say")
    key = key_of("say", settings, [key], llama_cpp=installed_version())
    return Task("say", path.name, key, (places.said,), make)


def _write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path, force=True) as temporary:
        text = json.dumps(document, ensure_ascii=False, indent=1)
        temporary.write_text(text, encoding="utf-8")


def _release(
    document: Document, places: Places, source: Path, files: Mapping[str, Path], on: Sequence[str]
) -> Task:
    section = document.file.release
    assert section is not None

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
    given = [Path(path) for path in section.results]
    given += [text] if isinstance(text, Path) else []
    settings = {
        "section": document.section("release"),
        "name": document.name,
        "files": [sha256_of_file(file) for file in given],
        "recipe": sha256_of_file(document.path),  # the manifest holds it
    }
    key = key_of("release", settings, on)
    stem = safe_name(document.name)
    models = [f"{stem}-{ftype}.gguf" for ftype in _types(document)]
    names = ["manifest.json", "SHA256SUMS", "README.md", "Modelfile", *models]
    names += [f"Modelfile.{ftype}" for ftype in _types(document)]
    names += ["LICENSE"] if isinstance(text, Path) else []
    return Task("release", "bundle/", key, tuple(places.bundle / n for n in names), make)
