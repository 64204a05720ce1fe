"""Reading pipeline recipes: every fault is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggsurgery.chat.families import family
from ggsurgery.errors import FormatError, GGSurgeryError
from ggsurgery.files.resources import shipped
from ggsurgery.pipeline.document import load_document
from ggsurgery.pipeline.source import find_source
from ggsurgery.plan.recipe import load_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nquantise: {types: [Q8_0]}\n", r"line 2: unknown key quantise.*mean quantize"),
        ("quantize:\n  types: [Q8_0]\n  threads: 4\n", r"line 3: unknown key quantize\.threads"),
        (
            "quantize: {types: [], imatrx: a}\n",
            r"unknown key quantize\.imatrx.*mean imatrix.*section of its own",
        ),
        ("evaluate:\n  perplexity:\n    txt: a\n", r"line 3: .*evaluate\.perplexity\.txt.*text"),
        ("quantize: {types: Q8_0}\n", r"line 1: quantize\.types is a list"),
        ("quantize: {types: [8]}\n", r"line 1: quantize\.types: expected a text, found '8'"),
        (
            "evaluate: {perplexity: {text: a.txt, chunks: 0}}\n",
            r"line 1: evaluate\.perplexity\.chunks: expected at least 1, found 0",
        ),
        ("evaluate: {kl: {text: a.txt, ctx: 3}}\n", r"kl\.ctx: expected at least 4, found 3"),
        ("imatrix: {text: a.txt, ctx: 8}\n", r"imatrix\.ctx: expected at least 16, found 8"),
        (
            "evaluate: {choices: [{data: a, limit: -5}]}\n",
            r"evaluate\.choices\.limit: expected at least 1, found -5",
        ),
        (
            "imatrix: {text: a.txt, chunks: many}\n",
            r"line 1: imatrix\.chunks: expected a whole number",
        ),
        ("imatrix: {chunks: 3}\n", "line 1: imatrix needs text"),
        ("quantize: {pure: 'yes', types: []}\n", "expected true or false"),
        ("evaluate:\n  choices: {data: a}\n", r"line 2: evaluate\.choices is a list"),
        (
            "evaluate:\n  choices:\n  - data: a\n    shot: 5\n",
            r"line 4: unknown key evaluate\.choices\.shot.*mean shots",
        ),
        ("evaluate: {choices: [{limit: 3}]}\n", r"line 1: evaluate\.choices needs data"),
        ("evaluate: {choices: [a.jsonl]}\n", r"line 1: evaluate\.choices holds keys"),
        ("evaluate: {bench: {tasks: hellaswag}}\n", r"evaluate\.bench\.tasks is a list"),
        ("evaluate: {bench: {data: d}}\n", r"evaluate\.bench needs tasks"),
        ("evaluate: {kl: {ctx: 12}}\n", r"evaluate\.kl needs text"),
        ("laco: {text: a, treshold: 0.8}\n", r"unknown key laco\.treshold.*mean threshold"),
        ("laco: {text: a, threshold: high}\n", r"laco\.threshold: expected a number"),
        ("laco: {text: a}\noperations: [{delete: 1}]\n", "either operations or laco"),
        ("name: a\nname: b\n", "line 2: duplicate key .name."),
        ("source: in.gguf\n", "line 1: source holds keys: expected file, package"),
        ("operations:\n  - delte: {layer: 3}\n", "unknown operation 'delte'.*delete"),
        ("template: {family: qwen3, file: a}\n", "either family or file"),
        ("template: {family: qwen-3}\n", "Did you mean qwen3"),
        ("template: {file: missing.jinja}\n", "missing.jinja: cannot be read"),
        ("header: [a]\n", "header holds keys"),
        ("options: {drop_mpt: true}\n", r"line 1: unknown key options\.drop_mpt.*mean drop_mtp"),
        ("options: {force_kinds: 1}\n", r"line 1: options\.force_kinds: expected true or false"),
        ("header: {general.date: 2024-01-02}\n", r"header\.general\.date is not a plain.*quotes"),
        ("name: 2024-13-45\n", "no valid YAML"),
        ("operations: [{delete: {layer: 0,\n    layer: 2}}]\n", "line 2: duplicate key .layer."),
        ("- delete: 3\n", "not a recipe"),
        ("name: [\n", "no valid YAML"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load_document(write(tmp_path, text))


def test_header_and_template_become_steps(tmp_path: Path) -> None:
    text = """
name: new
operations: [{delete: 3}]
header: {general.license: mit, general.url: null}
template: {family: chatml}
"""
    document = load_document(write(tmp_path, text))
    steps = [(s.operation, dict(s.arguments)) for s in document.recipe.steps]
    assert steps == [
        ("delete", {"layer": 3}),
        ("set", {"key": "general.license", "value": "mit"}),
        ("unset", {"key": "general.url"}),
        (
            "set",
            {"key": "tokenizer.chat_template", "value": family("chatml").jinja, "type": "string"},
        ),
    ]
    assert document.name == "new"


def test_a_missing_source_says_where_to_get_it(tmp_path: Path) -> None:
    document = load_document(write(tmp_path, "source: {file: no.gguf, note: Fetch it.}\n"))
    with pytest.raises(FormatError, match=r"not there\. Fetch it\. Give its place with --source"):
        find_source(document)
    package = load_document(write(tmp_path, "source: {package: no-such==1.0, file: a}\n"))
    with pytest.raises(FormatError, match=r"pip install --no-deps no-such==1\.0"):
        find_source(package)
    other = load_document(write(tmp_path, "source: {package: click==0.0.1, file: a}\n"))
    with pytest.raises(FormatError, match=r"another version: expected 0\.0\.1"):
        find_source(other)
    none = load_document(write(tmp_path, "name: x\n"))
    with pytest.raises(FormatError, match="names no source"):
        find_source(none)


def test_another_file_than_the_recipes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.gguf").write_bytes(b"GGUF")
    document = load_document(write(tmp_path, f"source: {{file: in.gguf, sha256: '{'0' * 64}'}}\n"))
    with pytest.raises(FormatError, match="not the file that the recipe was written for"):
        find_source(document)
    assert find_source(document, tmp_path / "in.gguf") == tmp_path / "in.gguf"


def test_the_shipped_recipes_read_as_pipelines_and_as_surgery() -> None:
    found = sorted(shipped("models").glob("*.yaml"))
    assert {p.stem for p in found} >= {
        "demo",
        "qwen3-8b-laco",
        "qwen3-tiny-v1",
        "qwen3-tiny-v2",
        "ruadapt-10l",
    }
    for path in found:
        try:
            document = load_document(path)
        except GGSurgeryError as error:
            pytest.fail(f"{path.name}: {error}")
        if document.section("laco"):
            with pytest.raises(FormatError, match=r"by running LaCo.*ggsurgery run"):
                load_recipe(path)
        else:
            assert load_recipe(path).steps == document.recipe.steps
