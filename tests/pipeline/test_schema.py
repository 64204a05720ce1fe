"""The schema of recipes says what the reader takes."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from ggsurgery.errors import FormatError
from ggsurgery.files.resources import shipped
from ggsurgery.pipeline.document import load_document
from ggsurgery.pipeline.schema import recipe_schema

from .._command import call
from .._needs import ROOT

SCHEMA = recipe_schema()
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}


def faults(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What JSON Schema's keywords used here refuse."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: not in {schema['enum']}"]
    kind = schema.get("type")
    if kind in TYPES and (
        not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        return [f"{where}: no {kind}"]
    found = []
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where}: below {schema['minimum']}")
    if kind == "array":
        found += [f for item in value for f in faults(item, schema["items"], where)]
    if kind == "object" and "properties" in schema:
        if not isinstance(value, dict):
            return [f"{where}: no object"]
        found += [f"{where}: no {key}" for key in schema["required"] if key not in value]
        for key, item in value.items():
            if key not in schema["properties"]:
                found.append(f"{where}: unknown {key}")
            else:
                found += faults(item, schema["properties"][key], f"{where}.{key}")
    return found


def test_the_command_prints_it():
    assert call("schema", "recipe").json == SCHEMA
    call("schema", "plan", code=2)


@pytest.mark.parametrize("path", sorted(shipped("models").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_fit(path: Path):
    assert faults(yaml.safe_load(path.read_text(encoding="utf-8")), SCHEMA) == []


@pytest.mark.parametrize(
    "text",
    [
        "evaluate: {perplexity: {text: a.txt, ctx: 3}}",
        "evaluate: {perplexity: {text: a.txt, windows: 0}}",
        "evaluate: {choices: [{data: a, style: odd}]}",
        "evaluate: {kl: {ctx: 12}}",
        "evaluate: {suite: {length: short}}",
        "imatrix: {text: a, ctx: 8}",
        "imatrix: {text: null}",
        "laco: {text: a, threshold: high}",
        "quantize: {types: Q8_0}",
        "quantize: {types: [Q8_0], threads: 3}",
        "release: {relation: child}",
        "quantise: {}",
    ],
)
def test_what_the_reader_refuses_does_not_fit(tmp_path: Path, text: str):
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError):
        load_document(tmp_path / "r.yaml")
    assert faults(yaml.safe_load(text), SCHEMA)


def test_earlier_names_are_read_and_marked(tmp_path: Path):
    text = "evaluate: {perplexity: {text: a.txt, chunks: 3}, bench: {tasks: [a], include: b}}"
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    evaluate = load_document(tmp_path / "r.yaml").file.evaluate
    assert evaluate.perplexity is not None and evaluate.perplexity.windows == 3
    assert evaluate.bench is not None and evaluate.bench.include_path == tmp_path / "b"
    assert faults(yaml.safe_load(text), SCHEMA) == []
    assert SCHEMA["$defs"]["PerplexitySettings"]["properties"]["chunks"]["deprecated"] is True
    (tmp_path / "r.yaml").write_text("imatrix: {text: a, chunks: 3, windows: 3}")
    with pytest.raises(FormatError, match="chunks is another name of windows"):
        load_document(tmp_path / "r.yaml")


def test_every_section_and_key_is_in_the_reference(monkeypatch: pytest.MonkeyPatch):
    """docs/reference/recipe.md, as mkdocs writes it."""
    pages: dict[str, Any] = {}

    class File:
        def __init__(self, path: str, _mode: str) -> None:
            self.path = path

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, text: str) -> None:
            pages[self.path] = text

    fake = types.ModuleType("mkdocs_gen_files")
    fake.open = File  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mkdocs_gen_files", fake)
    script = ROOT / "docs/reference/generate.py"
    spec = importlib.util.spec_from_file_location("generate", script)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    page = pages["reference/recipe.md"]
    for name, section in SCHEMA["$defs"].items():
        assert f"## {name.removesuffix('Settings')}\n" in page
        for key in section["properties"]:
            assert re.search(rf"^\| `{key}` \|", page, re.MULTILINE), f"{name}.{key}"
