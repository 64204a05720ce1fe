"""Every field of every document that is read, with every wrong type: one clear line comes out.

A document of each kind is mutated at each path: the value is replaced by null, a list, an
object, a text, a boolean, huge numbers, not-a-number; or it is missing. Whoever reads the
document then works with it. It may be taken, or refused with a GGSurgeryError that names the
file; any other exception is a bug.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from ggsurgery.errors import GGSurgeryError
from ggsurgery.files.fields import read_json
from ggsurgery.find.figures import figures_of
from ggsurgery.find.laco.types import FORMAT as LACO
from ggsurgery.find.search import run as search_run
from ggsurgery.jobs.compare import pairs_of
from ggsurgery.jobs.say import read_said
from ggsurgery.measure.metrics.gsm8k import load_problems
from ggsurgery.measure.questions import guess_style, load_questions, prompts
from ggsurgery.measure.results import statistics
from ggsurgery.measure.results.comparison import paired
from ggsurgery.measure.results.result_files import Results, load_with_base, merge_results
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.suite.data import load_facts
from ggsurgery.measure.suite.result import SurgeryScore
from ggsurgery.measure.variants.batch import Trial
from ggsurgery.measure.variants.journal import Journal
from ggsurgery.pipeline.state import NAME, State
from ggsurgery.pipeline.tasks import read_laco
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.plan.types import Plan
from ggsurgery.present import svg
from ggsurgery.release import laco_section, sections
from ggsurgery.release.request import ReleaseFile
from ggsurgery.report.compute import compute_report
from ggsurgery.report.html import render_html
from ggsurgery.report.markdown import render_markdown
from ggsurgery.runtime import probe
from tests.report.samples import influence, scan, search, three_models

MISSING = object()
WRONG = (
    MISSING,
    None,
    [],
    [None],
    {},
    {"a": 1},
    "",
    "text",
    "\udcff",
    True,
    -1,
    2.5,
    10**40,
    10**400,
    1e308,
    math.nan,
    math.inf,
    "nan",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into a document; of a list the first item, of objects the last too."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for i in {0, len(value) - 1} if isinstance(value[0], dict) else {0}:
            yield from places(value[i], (*path, i))


def mutated(document: Any) -> Iterator[tuple[str, Any]]:
    for path in places(document):
        for wrong in WRONG:
            if not path:
                if wrong is not MISSING:
                    yield f"whole = {str(wrong)[:9]}", wrong
                continue
            changed = copy.deepcopy(document)
            place = changed
            for key in path[:-1]:
                place = place[key]
            if wrong is MISSING:
                del place[path[-1]]
            else:
                place[path[-1]] = wrong
            yield f"{path} = {'missing' if wrong is MISSING else str(wrong)[:9]}", changed


def check(document: Any, use: Callable[[Any], object], *, needs_file: str | None = None) -> None:
    """The document works as it is; no mutation gives another error than ours."""
    use(document)
    bugs = []
    refused = 0
    for what, changed in mutated(document):
        try:
            use(changed)
        except GGSurgeryError as error:
            refused += 1
            line = str(error)
            if "\n" in line or len(line) > 1500 or (needs_file and needs_file not in line):
                bugs.append(f"{what}: unclear: {line[:200]}")
        except Exception as error:  # noqa: BLE001 - any is a bug
            bugs.append(f"{what}: {type(error).__name__}: {error}")
    assert not bugs, f"{len(bugs)} bugs:\n" + "\n".join(bugs[:40])
    assert refused > 5


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer bootstrap draws: their values are not looked at."""
    monkeypatch.setattr(statistics.resampled_means, "__kwdefaults__", {"n": 20, "seed": 0})
    monkeypatch.setattr(statistics, "RESAMPLES", 20)
    monkeypatch.setattr(SurgeryScore.draws, "__defaults__", (20, 0))


def shortened(results: Results) -> dict[str, Any]:
    """A result document with few items."""
    document = json.loads(json.dumps(results.to_json()))
    for score in document["scores"]:
        for key in ("items", "ids"):
            if key in score:
                score[key] = score[key][:6]
    for part in document["suite"]["parts"]:
        for key in ("items", "ids", "transcript"):
            part[key] = part[key][:6]
    document["suite"]["parts"] = document["suite"]["parts"][:2]
    document["scores"] = document["scores"][:1]
    document |= {"controls": document["controls"][:1]} if "controls" in document else {}
    return document


class HEADER:
    """The header of a file that a card is about: it says nothing."""

    metadata: ClassVar[dict[str, Any]] = {}
    path = Path("a.gguf")
    architecture = "llama"

    @staticmethod
    def get(key: str, default: Any = None) -> Any:
        return default


@cache
def small_base() -> Results:
    found = three_models()[0]
    scores = tuple(replace(s, items=s.items[:6], ids=s.ids[:6]) for s in found.scores)
    assert found.suite is not None
    parts = tuple(
        replace(p, items=p.items[:6], ids=p.ids[:6], transcript=p.transcript[:2])
        for p in found.suite.parts[:2]
    )
    return replace(found, scores=scores, suite=replace(found.suite, parts=parts))


def published(path: Path) -> None:
    """All that is done with a result file: compare, report, the sections of a card."""
    base = small_base()
    document = read_json(path)
    if plots := figures_of(document):
        for report in (compute_report([base], plots=plots), compute_report([], plots=plots)):
            render_html(report)
            render_markdown(report)
        svg.document(plots)
        return
    found = load_with_base(path)
    for one in found:
        for pair in ((base, one), (one, base), (one, one)):
            for comparison in pairs_of(*pair)[0]:
                json.dumps(comparison.to_json())
    report = compute_report(merge_results([*found, base]))
    render_html(report).encode(errors="backslashreplace")
    render_markdown(report)
    json.dumps(report.to_json())
    for one in found:
        file: Any = SimpleNamespace(
            name="a.gguf",
            header=HEADER,
            results=one,
            ftype="Q8_0",
            memory=None,
            n_bytes=1,
            bits_per_weight=8.5,
            value=lambda m, one=one: ReleaseFile.value(SimpleNamespace(results=one), m),  # type: ignore[arg-type]
        )
        for make in (sections.perplexity, sections.retention, sections.suite):
            make([file], one)
        sections.divergence([file])
        sections.controls([file])
        sections.files_table([file], file, "it is the best")


def write(path: Path, document: Any) -> Path:
    text = json.dumps(document)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


@pytest.mark.parametrize(
    "kind", ["results", "score", "list", "lm-eval", "bench", "scan", "influence", "search"]
)
def test_result_files(tmp_path: Path, kind: str) -> None:
    whole = shortened(three_models()[1])
    told = {
        "file": "a.gguf",
        "task": "t",
        "chance": 0.25,
        "bytes": 5,
        "layers": 2,
        "n_ctx": 512,
        "text": "t.txt",
        "versions": {"gguf": "1"},
    }
    bare = {**whole["scores"][0], "provenance": told}
    row = {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "t", "sample_len": 4}
    lm_eval = {
        "results": {"hellaswag": row},
        "n-samples": {"hellaswag": {"effective": 4}},
        "model_name": "m",
    }
    documents: dict[str, Any] = {
        "results": {
            **whole,
            "suite": whole["suite"],
            "comparisons": [{"label": "surgery", "verdict": "better", "p_value": 0.01}],
        },
        "score": bare,
        "list": [bare],
        "lm-eval": lm_eval,
        "bench": {**lm_eval, "ggsurgery_scores": [bare]},
        "scan": scan(13),
        "influence": influence(),
        "search": search(),
    }
    path = tmp_path / "r.json"
    check(documents[kind], lambda d: published(write(path, d)))


def test_result_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    document = shortened(three_models()[0])
    check(document, lambda d: load_with_base(write(path, d)), needs_file=str(path))


def test_laco(tmp_path: Path) -> None:
    document = {
        "ggsurgery": LACO,
        "version": 1,
        "settings": {
            "merge_layers": 3,
            "lowest": 1,
            "highest": 9,
            "interval": 2,
            "threshold": 0.8,
            "max_compression": 0.3,
            "variant": "damped",
            "method": "x",
            "factor": 0.5,
        },
        "layers": [12, 10],
        "removed": 2,
        "removed_share": 0.17,
        "iterations": 2,
        "merges": 1,
        "rejected": 1,
        "similarity": {"mean": 0.9, "min": 0.8, "max": 1.0, "texts": 3, "values": [0.8, 0.9, 1.0]},
        "perplexity": [12.0, 14.5],
        "recipe": {"operations": [{"delete": {"layer": "3"}}]},
        "attempts": [
            {
                "iteration": 1,
                "base": 5,
                "merged": [6, 7],
                "layers_before": 12,
                "similarity": 0.9,
                "accepted": True,
                "per_text": [0.9],
                "note": "",
            }
        ],
    }
    header: Any = SimpleNamespace(metadata={}, path=Path("a.gguf"))

    def use(changed: Any) -> None:
        if laco_section.is_laco(changed):
            try:
                laco_section.check_laco(changed, header)
            except GGSurgeryError as error:
                if "of another model" not in str(error):  # taken, as far as its types go
                    raise
            laco_section.sections(changed)
        read_laco(write(tmp_path / "laco.json", changed))

    check(document, use)


SUBJECT = {"source": "sha256:1", "metric": "perplexity"}


def test_journals(tmp_path: Path) -> None:
    facts = {"chance": 0.25, "facts_accuracy": None}
    items = Score("choices", 1.5, 0.1, 2, facts, (1.0, 2.0))
    trial = Trial(Recipe((step("delete", layer="1"),)), "d1", items, None, 0.5).to_json()
    trial |= {"difference": 0.1, "difference_stderr": 0.01}
    searched = {
        "digest": "d2",
        "label": "delete 1",
        "values": [1.5],
        "items": [1.0, 2.0],
        "stderr": 0.1,
        "n": 2,
        "detail": {},
        "seconds": 1.0,
    }
    pruned = {"digest": "d3", "cut": [1], "value": 2.0, "items": [2.0, 2.1]}
    lines = [{"subject": SUBJECT}, {"started": "d0", "label": "abc 7"}, trial, searched, pruned]
    path = tmp_path / "j.jsonl"

    def use(document: Any) -> None:
        path.write_text("\n".join(map(json.dumps, document)) if isinstance(document, list) else "x")
        book = Journal(path, SUBJECT)
        for entry in book.unfinished.values():
            entry["label"].partition(" ")
        for digest, entry in book.results.items():
            if "recipe" in entry:
                found = Trial.from_json(entry, path)
                json.dumps(found.to_json())
                if found.measured is not None:
                    paired(found.measured, items)
            elif "values" in entry and (known := book.entry(digest, "values")):
                [math.isfinite(v) for v in known["values"]]
            elif known := book.entry(digest, "value"):
                float(known["value"])

    check(lines, use, needs_file="j.jsonl")


def test_attributes_of_a_study() -> None:
    recipe = {"operations": [{"delete": {"layer": "1"}}]}
    attributes = {
        "recipe": recipe,
        "digest": "d",
        "stderr": 0.1,
        "items": [1.0, 2.0],
        "n": 2,
        "hand_made": recipe,
        "seconds": 2.0,
        "label": "delete 1",
    }

    def use(changed: Any) -> None:
        for values in ((1.0,), ()):
            trial = SimpleNamespace(number=3, user_attrs=changed)
            row = search_run._row_of(trial, values, "pruned", "study.db")
            json.dumps(row.to_json())
            row.recipe.apply(Plan.identity(4))

    check(attributes, use)


def test_recipes() -> None:
    document = {
        "name": "n",
        "options": {"allow_unknown_arch": True},
        "operations": [
            {"delete": {"layer": "1"}},
            {"swap": {"layers": "1,2"}},
            {"move": {"layer": 1, "to": 2}},
            {"duplicate": {"layer": "1", "scale": 0.5}},
            {"keep": {"layers": "0-3"}},
            {"merge": {"layers": "1-2"}},
            {"interpolate": {"layers": "1,2", "weight": 0.5}},
            {"set": {"key": "a.b", "value": [1, 2], "type": "array[int32]"}},
            {"unset": {"key": "a.c"}},
        ],
    }

    def use(changed: Any) -> None:
        recipe = Recipe.from_json(changed, "r.yaml")
        recipe.describe()
        recipe.dumps()
        recipe.apply(Plan.identity(9))

    for one in document["operations"]:  # each for itself: an early error hides the later ones
        check({**document, "operations": [one]}, use)


def test_remembered_probes_and_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is damaged there is made again: nothing may be refused."""
    monkeypatch.setattr(probe, "cache_file", lambda: tmp_path / "probe.json")
    monkeypatch.setattr(probe, "probe", lambda: probe.Probe(True, "", "cpu", "1"))
    key = f"{probe.machine.cpu_digest()}-{probe.binding.installed_version()}"
    known = {key: {"survive": False, "reason": "r", "cpu": "c", "library": "l"}}
    done = {"key": "k", "files": {"a.gguf": [1, 2]}, "result": {"x": 1}}
    state = {"ggsurgery": "run", "begun": ["b"], "steps": {"cut": done}}
    for _, changed in mutated(known):
        write(tmp_path / "probe.json", changed)
        found = probe.result.__wrapped__()
        assert isinstance(found.survive, bool) and isinstance(found.reason, str)
    for _, changed in mutated(state):
        write(tmp_path / NAME, changed)
        kept = State(tmp_path)
        kept.done("cut", "k")
        assert isinstance(kept.owns(tmp_path / "a.gguf"), bool)
        kept.begin([tmp_path / "c"])


def test_said(tmp_path: Path) -> None:
    document = {
        "file": "a.gguf",
        "question": "Why?",
        "prompt": "Why?",
        "text": "So.",
        "reason": "eog",
    }
    path = tmp_path / "said.json"
    check(document, lambda d: str(read_said(write(path, d))["text"]).split(), needs_file=str(path))


LINES: dict[str, tuple[dict[str, Any], Callable[[Path], Any]]] = {
    "choices": (
        {"id": "q", "query": "a _ b", "choices": ["x", "y"], "answer": 0, "subject": "s"},
        load_questions,
    ),
    "boolq": ({"id": "q", "passage": "p", "question": "q", "answer": True}, load_questions),
    "gsm8k": ({"id": "q", "question": "q", "answer": "so #### 3", "final": 3}, load_problems),
    "facts": (
        {"id": "q", "topic": "t", "question": "q", "cloze": "c", "answers": ["a"], "default": True},
        lambda path: load_facts(path=path),
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_questions(tmp_path: Path, kind: str) -> None:
    document, load = LINES[kind]
    path = tmp_path / "q.jsonl"

    def use(changed: Any) -> None:
        path.write_text(json.dumps(changed) + "\n")
        found = load(path)
        if load is load_questions:
            prompts(found, guess_style(found))

    check(document, use, needs_file="q.jsonl")


def test_arrays_of_a_sidecar(tmp_path: Path) -> None:
    from ggsurgery.compensate.sidecar import Sidecar

    good = tmp_path / "good.npz"
    Sidecar({"heal.blk.1.ffn_down.weight": np.ones((2, 3), np.float32)}).save(good)
    assert Sidecar.load(good)["heal.blk.1.ffn_down.weight"].shape == (2, 3)
    rng = np.random.default_rng(0)
    data = good.read_bytes()
    damaged = [data[:n] for n in range(0, len(data), 7)]
    for _ in range(400):
        torn = bytearray(data)
        for at in rng.integers(0, len(data), 2):
            torn[at] = rng.integers(256)
        damaged.append(bytes(torn))
    bombs: list[dict[str, Any]] = [
        {"a": np.array(["text"])},
        {"a": np.array([{}], object)},
        {"a": np.ones(2, complex)},
        {"a": np.array(["2024-01-01"], "datetime64[D]")},
        {"a": np.zeros(1, [("x", "f4")])},
    ]
    for arrays in bombs:
        np.savez(tmp_path / "x.npz", **arrays)
        damaged.append((tmp_path / "x.npz").read_bytes())
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(10**8, np.float32))  # 400 MB in 400 kB
    damaged.append((tmp_path / "x.npz").read_bytes())
    bugs = []
    for number, content in enumerate(damaged):
        path = tmp_path / "bad.npz"
        path.write_bytes(content)
        try:
            Sidecar.load(path)
        except GGSurgeryError as error:
            assert "bad.npz" in str(error)
        except Exception as error:  # noqa: BLE001 - any is a bug
            bugs.append(f"{number}: {type(error).__name__}: {error}")
    assert not bugs, "\n".join(bugs[:20])
