"""The `evaluate` section of a recipe: which measurements it asks for, and how each is made.

    perplexity: {text: test.txt}                  kl:    {text: test.txt}      against the source
    choices:    [{data: piqa.jsonl, limit: 200}]  bench: {tasks: [hellaswag], data: questions}
    suite:      {}                                with its controls, of the recommended file

Each measurement of each file is a step of its own, so that a change repeats only that one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import FormatError, rename
from ..files.digest import sha256_of_file
from ..files.names import fitting
from ..files.progress import Progress
from ..jobs.bench import BenchRequest
from ..jobs.choices import ChoicesRequest
from ..jobs.evaluate import EvaluateRequest
from ..jobs.fields import TextSettings
from ..jobs.kl import KlRequest
from ..jobs.measured import Measured
from ..jobs.perplexity import PerplexityRequest
from ..jobs.request import Job, Settings
from ..measure.controls import N_RANDOM
from ..measure.results.result_files import Results, load_results, merge_results
from ..measure.suite.result import compare_surgery
from .document import Document, names_of


@dataclass(frozen=True)
class Measurement:
    """One thing to measure of every file.

    Args:
        name: part of the step's and the result file's name.
        section: the recipe's name of it, for messages.
        settings: all that the figures depend on besides the model; keys the step.
        kind: of the section; request: makes the request for a file.
        of_source: False where the source is what others are compared with.
        needs: a measurement of the same file whose results this one starts from; it is made of
            the recommended file only.
    """

    name: str
    section: str
    settings: Any
    kind: type[Settings]
    request: Callable[[Path], Job[Measured]]
    of_source: bool = True
    needs: str | None = None

    def named(self, text: str) -> str:
        """A warning about a request, its fields named as in the recipe."""
        return rename(text, names_of(self.kind, self.section))

    def measure(self, path: Path, progress: Progress, needed: Results | None = None) -> Measured:
        """Run the request for a file.

        Args:
            needed: the results of the measurement that this one `needs`.
        """
        request = self.request(path)
        if needed is None:
            return request.run(progress)
        assert isinstance(request, EvaluateRequest) and needed.suite is not None
        return request.run_controls(needed.suite, progress)


def measurements(document: Document, source: Path) -> list[Measurement]:
    """The measurements that the recipe requests, in the order of the section's description.

    Raises:
        FormatError: a file is missing, or the recipe asks the same questions twice.
    """
    text: TextSettings | None
    asked, raw = document.file.evaluate, document.section("evaluate")
    found: list[Measurement] = []
    sections = (asked.perplexity, asked.kl, *asked.choices, asked.bench)
    for section in sections:
        if section is not None:
            document.check_files(section)

    def add(name: str, settings: Any, kind: Any, chosen: Settings, **more: Any) -> None:
        key = {n: more.pop(n) for n in ("of_source", "needs") if n in more}

        def request(path: Path) -> Job[Measured]:
            made: Job[Measured] = chosen.extend(kind, file=path, **more)
            return made

        section = f"evaluate.{name.partition('-')[0].replace('controls', 'suite')}"
        found.append(Measurement(name, section, settings, type(chosen), request, **key))

    if (text := asked.perplexity) is not None:
        add("perplexity", text_key(text), PerplexityRequest, text)
    if (text := asked.kl) is not None:
        add("kl", text_key(text), KlRequest, text, base=source, of_source=False)
    for written, questions in zip(raw.get("choices", ()), asked.choices, strict=True):
        files = [Path(f) for f in (questions.data, questions.examples) if f is not None]
        name = f"choices-{fitting(files[0].stem)}"
        if name in {m.name for m in found}:
            raise FormatError(f"evaluate.choices asks {written['data']} twice", file=document.path)
        key = {**written, **_drawn(questions), "sha256": [sha256_of_file(f) for f in files]}
        add(name, key, ChoicesRequest, questions)
    if (bench := asked.bench) is not None:
        folders = {"data": bench.data, "include": bench.include_path}
        sums = {k: _contents(Path(f)) for k, f in folders.items() if f is not None}
        key = {**raw["bench"], **_drawn(bench), "sha256": sums}
        add("bench", key, BenchRequest, bench)
    if (suite := asked.suite) is not None:
        key = {"length": suite.length, "limit": suite.limit}
        plain = suite.__replace__(controls=True, random=None, seed=None)
        add("suite", key, EvaluateRequest, plain)
        if suite.controls:
            n_random = N_RANDOM if suite.random is None else suite.random
            chosen = {"n_random": n_random, "seed": suite.seed or 0}
            more = {"baseline": source, "of_source": False, "needs": "suite"}
            add("controls", chosen, EvaluateRequest, suite, **more)
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


def text_key(text: Any) -> dict[str, Any]:
    """The settings that a text's figures depend on."""
    key: dict[str, Any] = {"n_ctx": text.ctx, "n_windows": text.windows}
    if text.parse_special:  # only then, so that the keys of earlier runs stay
        key["parse_special"] = True
    if getattr(text, "bos", None) is not None:
        key["bos"] = text.bos
    return key | {"sha256": sha256_of_file(Path(text.text))}


def _drawn(asked: Any) -> dict[str, Any]:
    """Parts of a step's key besides its section, so that another draw is another step."""
    return {} if asked.limit is None else {"limit_seed": asked.limit_seed}


def _contents(folder: Path) -> str:
    """One sum for all files of a folder that hold questions or tasks."""
    kinds = (".jsonl", ".json", ".yaml", ".yml", ".py")
    files = sorted(p for p in folder.rglob("*") if p.suffix in kinds and p.is_file())
    facts = "".join(f"{p.relative_to(folder)} {sha256_of_file(p)}\n" for p in files)
    return hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()
