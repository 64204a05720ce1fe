"""The `evaluate` section of a recipe: which measurements it asks for, and how each is made.

    perplexity: {text: test.txt}                  kl:    {text: test.txt}      against the source
    choices:    [{data: piqa.jsonl, limit: 200}]  bench: {tasks: [hellaswag], data: questions}
    suite:      {}                                with its controls, of the recommended file

Every one is a step of its own for every file, so that one that changes is made again alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ..errors import FormatError
from ..files.names import fitting
from ..files.text import read_bytes, read_corpus
from ..measure import runs
from ..measure.bench.run import N_CTX, require_harness, run_bench
from ..measure.control_runs import alternatives, measure_alternatives
from ..measure.controls import N_RANDOM, verdict
from ..measure.draw import SEED, draw_questions
from ..measure.metrics.perplexity import perplexity_of_file
from ..measure.questions import STYLES, guess_style, load_questions, prompts
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results, load_results, merge_results
from ..measure.results.score import Score
from ..measure.suite.data import Length
from ..measure.suite.result import SurgeryScore, compare_surgery
from ..runtime import worker
from . import cautions
from .document import Document
from .state import Progress

#: Called with the file, a progress and, where the measurement `needs` another one, its results;
#: returns the results, and warnings.
Measure = Callable[..., tuple[Results, list[str]]]


@dataclass(frozen=True)
class Measurement:
    """One thing to measure of every file.

    `name` is part of the step's and the file's name; `settings` is all that the figures depend
    on besides the model; `of_source` is False where the source is what others are compared with.
    `needs` names a measurement of the same file whose results this one starts from; one of those
    is made of the recommended file only.
    """

    name: str
    settings: Any
    measure: Measure
    of_source: bool = True
    needs: str | None = None


def contexts(document: Document) -> list[tuple[str, int]]:
    """The contexts of a recipe, each with the name of its setting."""
    evaluate = document.section("evaluate") or {}
    sections = [
        ("laco", document.section("laco"), 256),
        ("imatrix", document.section("imatrix"), 512),
        ("evaluate.perplexity", evaluate.get("perplexity"), 512),
        ("evaluate.kl", evaluate.get("kl"), 512),
        ("evaluate.bench", evaluate.get("bench"), N_CTX),
    ]
    return [(f"{name}.ctx", int(asked.get("ctx", n))) for name, asked, n in sections if asked]


def measurements(document: Document, source: Path) -> list[Measurement]:
    """What the recipe asks for, in the order of the section's description.

    Raises:
        FormatError: a file is missing, questions are damaged, a style or length is unknown.
        MissingExtraError: `bench` without lm-evaluation-harness.
    """
    section = document.section("evaluate") or {}
    found: list[Measurement] = []
    if asked := section.get("perplexity"):
        found.append(_perplexity(document, asked))
    if asked := section.get("kl"):
        found.append(_kl(document, asked, source))
    for asked in section.get("choices") or ():
        found.append(_choices(document, asked))
        if found[-1].name in {m.name for m in found[:-1]}:
            raise FormatError(f"evaluate.choices asks {asked['data']} twice", file=document.path)
    if asked := section.get("bench"):
        found.append(_bench(document, asked))
    if "suite" in section:
        asked = section["suite"] or {}
        found.append(_suite(document, asked))
        if asked.get("controls", True):
            found.append(_controls(asked, source))
    return found


def results_of(paths: Iterator[Path], base: Results | None = None) -> Results | None:
    """The result files of one model as one, None where nothing was measured.

    Args:
        base: results of the source; where both did the suite they are compared item by item.
    """
    parts = [r for path in paths if path.is_file() for r in load_results(path)]
    if not parts:
        return None
    (found,) = merge_results(parts)
    if base is None or base.suite is None or found.suite is None:
        return found
    asked_alike = [(p.name, p.ids) for p in base.suite.applicable] == [
        (p.name, p.ids) for p in found.suite.applicable
    ]
    if not asked_alike:  # a chat template that only one of them has: nothing to pair
        return found
    compared = compare_surgery(base.suite, found.suite)
    return replace(found, comparisons=tuple(c.to_json() for c in compared))


def _perplexity(document: Document, asked: Mapping[str, Any]) -> Measurement:
    text, options, settings = _text(document, asked)

    def measure(path: Path, progress: Progress) -> tuple[Results, list[str]]:
        found = worker.run(
            perplexity_of_file,
            path,
            read_corpus(text),
            progress=progress,
            n_ctx=options["n_ctx"],
            n_chunks=options["n_windows"],
            parse_special=options.get("parse_special", False),
        )
        return _scored(path, [found.score], text), []

    return Measurement("perplexity", settings, measure)


def _kl(document: Document, asked: Mapping[str, Any], source: Path) -> Measurement:
    text, options, settings = _text(document, asked)

    def measure(path: Path, progress: Progress) -> tuple[Results, list[str]]:
        scores = worker.run(
            runs.kl_of_files,
            source,
            path,
            read_corpus(text),
            progress=progress,
            file=path,
            **options,
        )
        return _scored(path, scores, text), []

    return Measurement("kl", settings, measure, of_source=False)


def _choices(document: Document, asked: Mapping[str, Any]) -> Measurement:
    data = document.file(str(asked["data"]))
    dev = document.file(str(asked["from"])) if "from" in asked else None
    shots = asked.get("shots", 0)
    if bool(shots) != bool(dev):
        raise FormatError("evaluate.choices: shots and from go together", file=document.path)
    limit, seed = asked.get("limit"), asked.get("seed", SEED)
    questions = draw_questions(load_questions(data), limit, seed)
    style = asked.get("style") or guess_style(questions)
    if style not in STYLES:
        raise FormatError(
            "evaluate.choices.style",
            file=document.path,
            expected=f"one of {', '.join(STYLES)}",
            found=style,
        )
    prompted = prompts(questions, style, shots=shots, examples=load_questions(dev) if dev else [])
    facts = {
        "task": data.stem,
        "style": style,
        "shots": shots,
        "limit": limit,
        "limit_seed": None if limit is None else seed,
        "chance": sum(1 / len(q.choices) for q in questions) / len(questions),
    }

    def measure(path: Path, progress: Progress) -> tuple[Results, list[str]]:
        longest, trained = worker.run(runs.longest_of_file, path, prompted)
        found = worker.run(
            runs.choices_of_file,
            path,
            prompted,
            facts=facts,
            n_ctx=asked.get("ctx"),
            longest=longest,
            progress=progress,
        )
        return Results(model_facts(path), found), cautions.of_prompts(path, longest, trained)

    sums = [sha256_of(f) for f in (data, dev) if f is not None]
    settings = {**asked, **_drawn(limit, seed), "sha256": sums}
    return Measurement(f"choices-{fitting(data.stem)}", settings, measure)


def _bench(document: Document, asked: Mapping[str, Any]) -> Measurement:
    require_harness()
    folders = {k: document.directory(str(asked[k])) for k in ("data", "include") if k in asked}

    def measure(path: Path, progress: Progress) -> tuple[Results, list[str]]:
        found = worker.run(
            run_bench,
            path,
            list(asked["tasks"]),
            data=folders.get("data"),
            include_path=folders.get("include"),
            limit=asked.get("limit"),
            limit_seed=asked.get("seed", SEED),
            shots=asked.get("shots"),
            chat=asked.get("chat", False),
            n_ctx=asked.get("ctx", N_CTX),
            progress=progress,
        )
        n_ctx = asked.get("ctx", N_CTX)
        warnings = cautions.of_truncated(found.n_truncated, n_ctx, "evaluate.bench.ctx")
        return Results(model_facts(path), found.scores), warnings

    sums = {k: _contents(folder) for k, folder in folders.items()}
    drawn = _drawn(asked.get("limit"), asked.get("seed", SEED))
    return Measurement("bench", {**asked, **drawn, "sha256": sums}, measure)


def _drawn(limit: int | None, seed: int) -> dict[str, Any]:
    """What keys a step beside its section, so that another draw is another step."""
    return {} if limit is None else {"limit_seed": seed}


def _suite(document: Document, asked: Mapping[str, Any]) -> Measurement:
    length = asked.get("length", "default")
    if length not in get_args(Length):
        raise FormatError(
            "evaluate.suite.length",
            file=document.path,
            expected=" or ".join(get_args(Length)),
            found=length,
        )

    def measure(path: Path, progress: Progress) -> tuple[Results, list[str]]:
        found = worker.run(runs.suite_of_file, path, progress=progress, **_suite_settings(asked))
        warnings = cautions.of_limit(asked.get("limit"), "evaluate.suite.limit")
        return Results(model_facts(path), suite=found), warnings

    return Measurement("suite", _suite_settings(asked), measure)


def _suite_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"length": asked.get("length", "default"), "limit": asked.get("limit")}


def _controls(asked: Mapping[str, Any], source: Path) -> Measurement:
    settings = _suite_settings(asked)
    chosen = {"n_random": asked.get("random", N_RANDOM), "seed": asked.get("seed", 0)}

    def measure(path: Path, progress: Progress, of_file: Results) -> tuple[Results, list[str]]:
        assert of_file.suite is not None
        controls = alternatives(path, source, **chosen)
        done = 0

        def start(name: str, number: int, total: int) -> None:
            nonlocal done
            done = number

        def told(step: int, steps: int) -> None:
            progress(done * steps + step, len(controls) * steps)

        def suite(file: Path) -> SurgeryScore:
            return worker.run(runs.suite_of_file, file, progress=told, **settings)

        outcomes = measure_alternatives(of_file.suite, controls, source, suite, start)
        found = Results(
            model_facts(path),
            controls=tuple(o.to_json() for o in outcomes),
            verdict=verdict(of_file.suite, outcomes),
            baseline=source.name,
        )
        return found, []

    return Measurement("controls", chosen, measure, of_source=False, needs="suite")


def _text(
    document: Document, asked: Mapping[str, Any]
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The text of a measurement, how much of it counts, and what keys the step."""
    text = document.file(str(asked["text"]))
    options = {"n_ctx": asked.get("ctx", 512), "n_windows": asked.get("chunks")}
    if asked.get("parse_special"):  # only then, so that the keys of earlier runs stay
        options["parse_special"] = True
    return text, options, {**options, "sha256": sha256_of(text)}


def _scored(path: Path, scores: list[Score], text: Path) -> Results:
    named = (replace(s, provenance={**s.provenance, "text": text.name}) for s in scores)
    return Results(model_facts(path), tuple(named))


def sha256_of(path: Path) -> str:
    """sha256 of a text or a file of questions, hex."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _contents(folder: Path) -> str:
    """One sum for all files of a folder that hold questions or tasks."""
    kinds = (".jsonl", ".json", ".yaml", ".yml", ".py")
    files = sorted(p for p in folder.rglob("*") if p.suffix in kinds and p.is_file())
    facts = "".join(f"{p.relative_to(folder)} {sha256_of(p)}\n" for p in files)
    return hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()
