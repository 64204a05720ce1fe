"""Codes of errors: what a program tells them apart by, whatever their sentences are."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

from ggsurgery.errors import PlanError

from ._command import call, command, environment
from ._gguf import tiny_llama
from ._needs import ROOT

#: Every class with its code. A code that has been released stays.
CODES = {
    "ArchitectureError": "architecture",
    "EngineError": "engine",
    "FieldError": "field",
    "FormatError": "format",
    "GGSurgeryError": "error",
    "InputError": "input",
    "InvalidDataError": "not-finite",
    "MissingExtraError": "missing-extra",
    "OutputError": "output",
    "PlanError": "plan",
    "PushError": "push",
    "RequestError": "request",
    "SystemCallError": "system",
    "TemplateError": "template",
    "UnexpectedError": "bug",
}


def test_every_class_has_a_code_of_its_own() -> None:
    files = sorted((ROOT / "ggsurgery").rglob("*.py"))
    classes = {
        node.name: node
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    found = {"GGSurgeryError"}
    while more := {
        name
        for name, node in classes.items()
        if name not in found and found & {getattr(b, "id", None) for b in node.bases}
    }:
        found |= more
    codes = {
        name: next(
            ast.literal_eval(line.value)
            for line in classes[name].body
            if ast.unparse(line).startswith("code")
            and isinstance(line, ast.Assign | ast.AnnAssign)
            and line.value is not None
        )
        for name in found
    }
    assert codes == CODES
    assert len(set(CODES.values())) == len(CODES)


def test_json_holds_the_parts_of_the_message(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "in.gguf", 4)
    said = call("delete", "--layer", "9", model, tmp_path / "o.gguf", "--json", code=1)
    assert said.out == ""
    error = json.loads(said.err)["error"]
    assert (error["code"], error["expected"]) == ("plan", "0 to 3")
    assert error["problem"] == "layer 9 does not exist"
    assert error["message"] == str(
        PlanError(error["problem"], file=error["file"], expected="0 to 3", hint=error["hint"])
    )
    codes = {
        "format": ("inspect", tmp_path / "none.gguf"),
        "output": ("delete", "--layer", "1", model, model),
        "engine": (
            "quantize",
            model,
            tmp_path / "o.gguf",
            "--type",
            "Q4_0",
            "--tensor-type",
            "xyz=q8_0",
        ),
    }
    for code, arguments in codes.items():
        assert json.loads(call(*arguments, "--json", code=1).err)["error"]["code"] == code


def test_debug_names_the_code(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--debug", "inspect", tmp_path / "none.gguf"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("ggsurgery: error code: format\nTraceback")
