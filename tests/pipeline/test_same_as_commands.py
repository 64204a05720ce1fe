"""A recipe of one section gives the figures, checks and warnings of the command."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from .._command import Said, call
from .._needs import needs_package
from .._shapes import BYTES, small, write_shapes
from .._tiny import MODEL, SEARCH_TEXT

QUESTION = '{"id": "%d", "query": "Two and two are", "choices": ["four", "five"], "answer": 0}\n'

#: Section of the recipe, the command that does the same to OUT, and the result file of the run.
SECTIONS = {
    "perplexity": (
        "evaluate: {perplexity: {text: t.txt, ctx: 64, windows: 2}}",
        "perplexity OUT --text t.txt --ctx 64 --windows 2 -o alone.json",
        "results/cut.perplexity.json",
    ),
    "kl": (
        "evaluate: {kl: {text: t.txt, ctx: 64, windows: 2}}",
        "kl in.gguf OUT --text t.txt --ctx 64 --windows 2 -o alone.json",
        "results/cut.kl.json",
    ),
    "choices": (
        "evaluate: {choices: [{data: q.jsonl, limit: 2, limit_seed: 3}]}",
        "choices OUT --data q.jsonl --limit 2 --limit-seed 3 -o alone.json",
        "results/cut.choices-q.json",
    ),
    "suite": (
        "evaluate: {suite: {limit: 1, controls: false}}",
        "evaluate OUT --limit 1 -o alone.json",
        "results/cut.suite.json",
    ),
    "imatrix": (
        "imatrix: {text: t.txt, ctx: 64, windows: 2}",
        "imatrix OUT alone.json --text t.txt --ctx 64 --windows 2",
        "X.imatrix.gguf",
    ),
    "quantize": (
        "quantize: {types: [Q4_K_M], tensor_types: [ffn_down=q8_0]}",
        "quantize OUT alone.json --type Q4_K_M --tensor-type ffn_down=q8_0",
        "X-Q4_K_M.gguf",
    ),
}

#: Values that cannot work: section, command, and what both say of the field.
REFUSED = {
    "perplexity": (
        "evaluate: {perplexity: {text: t.txt, ctx: 3}}",
        "perplexity in.gguf -f t.txt -c 3",
    ),
    "choices": (
        "evaluate: {choices: [{data: q.jsonl, shots: 1}]}",
        "choices in.gguf --data q.jsonl --shots 1",
    ),
    "choices data": ("evaluate: {choices: [{data: t.txt}]}", "choices in.gguf --data t.txt"),
    "suite": ("evaluate: {suite: {limit: 0}}", "evaluate in.gguf --limit 0"),
    "imatrix": ("imatrix: {text: t.txt, ctx: 8}", "imatrix in.gguf a.dat -f t.txt -c 8"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_shapes(tmp_path / "in.gguf", small("Small", 2), tokens=BYTES, seed=3)
    (tmp_path / "t.txt").write_text("Some words, said again. " * 60, encoding="utf-8")
    (tmp_path / "q.jsonl").write_text("".join(QUESTION % i for i in range(4)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, section: str, code: int = 0) -> Said:
    recipe = f"name: X\nsource: {{file: in.gguf}}\noperations: []\n{section}\n"
    (folder / "r.yaml").write_text(recipe, encoding="utf-8")
    return call("run", "r.yaml", "--out", "out", code=code)


@pytest.mark.slow
@pytest.mark.parametrize("name", SECTIONS)
def test_figures_are_the_same(folder: Path, name: str) -> None:
    section, command, result = SECTIONS[name]
    run(folder, section)
    call(*command.replace("OUT", "out/X.gguf").split())
    alone, together = (folder / "alone.json").read_bytes(), (folder / "out" / result).read_bytes()
    if result.endswith(".json"):
        assert json.loads(alone) == json.loads(together)
    else:
        assert alone == together


LACO = {"texts": 2, "ctx": 64, "threshold": 0.1, "lowest": 6, "merge_layers": 2}
RELEASE = ("--license", "mit", "--no-memory", "--no-check-tokenizer")


@pytest.mark.slow
def test_laco_and_a_release_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, statistics and bundle; the manifest of a run holds its recipe as well."""
    needs_package("huggingface_hub", extra="hub")
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "in.gguf")
    Path("t.txt").write_text(SEARCH_TEXT.read_text(encoding="utf-8")[:3000], encoding="utf-8")
    keys = ", ".join(f"{key}: {value}" for key, value in LACO.items())
    Path("r.yaml").write_text(
        f"name: X\nsource: {{file: in.gguf}}\nlaco: {{text: t.txt, {keys}}}\n"
        "release: {memory: false, check_tokenizer: false, license: mit}\n"
    )
    call("run", "r.yaml", "--out", "out")
    options = [w for k, v in LACO.items() for w in ("--" + k.replace("_", "-"), v)]
    call("laco", *options, "--text", "t.txt", "--name", "X", "-o", "l.json", "in.gguf", "l.gguf")
    assert Path("l.gguf").read_bytes() == Path("out/X.gguf").read_bytes()
    laco = Path("out/results/laco.json")
    assert json.loads(Path("l.json").read_text()) == json.loads(laco.read_text())
    call("release", "out/X.gguf", "--out", "alone", "--name", "X", *RELEASE, "--results", laco)
    alone, together = (
        {p.name: p.read_bytes() for p in Path(folder).iterdir()}
        for folder in ("alone", "out/bundle")
    )
    manifest = json.loads(together["manifest.json"])
    assert manifest.pop("recipe") == Path("r.yaml").read_text()
    assert manifest == json.loads(alone["manifest.json"])
    for name in ("manifest.json", "SHA256SUMS"):  # of which one sum is the manifest's
        del alone[name], together[name]
    assert alone == together


@pytest.mark.parametrize("name", REFUSED)
def test_checks_are_the_same(folder: Path, name: str) -> None:
    section, command = REFUSED[name]
    by_recipe = run(folder, section, code=1).err
    words = command.split()
    by_command = call(*words, code=1 if name == "choices data" else 2).err
    assert not (folder / "out").exists()
    for said in (by_recipe, by_command):
        assert "Traceback" not in said
    if name == "choices data":
        assert "t.txt: line 1" in by_recipe and "t.txt: line 1" in by_command
    elif name == "choices":
        for said in (by_recipe, by_command):
            assert re.search(r"shots and \S*from go together", said)
    else:
        (bound,) = re.findall(r"expected at least (\d+)", by_recipe)
        assert f"x>={bound}" in by_command


@pytest.mark.parametrize(
    ("section", "command", "key"),
    [
        ("evaluate: {perplexity: {%s}}", "perplexity in.gguf", "evaluate.perplexity.ctx"),
        ("evaluate: {kl: {%s}}", "kl in.gguf in.gguf", "evaluate.kl.ctx"),
        ("imatrix: {%s}", "imatrix in.gguf a.dat", "imatrix.ctx"),
    ],
)
def test_warnings_are_the_same(folder: Path, section: str, command: str, key: str) -> None:
    """The fields have the names of the recipe or of the options."""
    text = section % "text: t.txt, ctx: 100000"
    recipe = f"source: {{file: in.gguf}}\n{text}\n"
    (folder / "r.yaml").write_text(recipe, encoding="utf-8")
    by_recipe = call("run", "r.yaml", "--out", "out", "--dry-run").err
    by_command = call(*command.split(), "-f", "t.txt", "-c", "100000", code=1).err
    lines = [line for line in by_command.splitlines() if "--ctx 100000 is more than" in line]
    assert lines
    for line in set(lines):
        assert line.replace("--ctx", key) in by_recipe
