"""`--json` of every measuring command is what docs/reference/json.md says, and is read again."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ggsurgery.measure.results.result_files import load_results
from tests._command import call
from tests._needs import ROOT, needs_package
from tests._small_models import write_small_model
from tests._tiny import MODEL, REPORT_TEXT, SEARCH_TEXT

PAGE = ROOT / "docs" / "reference" / "json.md"
TEXT = ("--text", str(SEARCH_TEXT), "--ctx", "64")
WINDOWS = (*TEXT, "--windows", "2")


def schemas() -> dict[str, Any]:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = json.loads(block)
    return found


COMMANDS = sorted(set(schemas()["$defs"]) - {"envelope", "figure", "score", "scores"})


def questions(folder: Path) -> Path:
    path = folder / "q.jsonl"
    rows = [
        {"id": str(i), "query": "import", "choices": [" sys", " zqj"], "answer": i % 2}
        for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(command: str, folder: Path) -> list[object]:
    out = folder / "out.gguf"
    match command:
        case "perplexity" | "scan" | "influence":
            return [command, MODEL, *WINDOWS]
        case "kl":
            return [command, MODEL, MODEL, *WINDOWS]
        case "choices":
            return [command, MODEL, "--data", questions(folder)]
        case "evaluate":
            cut = folder / "cut.gguf"
            call("delete", "--layer", 4, MODEL, cut)
            return [command, cut, "--baseline", MODEL, "--limit", 2, "--random", 0]
        case "bench":
            needs_package("lm_eval", extra="bench")
            data = folder / "data"
            data.mkdir()
            question = '{"question": "2 + 2?", "answer": "#### 4", "final": "4"}\n'
            (data / "gsm8k.jsonl").write_text(question * 2)
            row = {"query": "import", "choices": [" sys", " zqj"], "answer": 0}
            (data / "piqa.jsonl").write_text(f"{json.dumps(row)}\n")
            return [command, MODEL, "--tasks", "piqa", "--data", data]
        case "search":
            needs_package("optuna", extra="search")
            study = ("--study", "s", "--storage", folder / "s.db", "--space", "delete")
            report = ("--report-text", REPORT_TEXT)
            return [command, MODEL, *study, "--budget", 3, *WINDOWS, *report]
        case "prune-depth":
            how = ("--layers", 1, "--by", "influence")
            return [command, *how, *WINDOWS, MODEL, out]
        case "laco":
            how = ("--merge-layers", 2, "--lowest", 1, "--threshold", 0.1, "--texts", 2)
            return [command, *how, *TEXT, MODEL, out]
        case "heal":
            return [command, "--layer", 4, "--few-tokens", "--tokens", 256, *TEXT, MODEL, out]
        case "prune-width":
            return [
                command,
                "--ffn",
                0.25,
                "--few-tokens",
                "--tokens",
                256,
                "--force",
                *TEXT,
                MODEL,
                out,
            ]
        case "imatrix show":
            matrix = folder / "m.gguf"
            call("imatrix", "collect", MODEL, matrix, *WINDOWS)
            return ["imatrix", "show", matrix]
        case "speed":
            return [command, MODEL, "--prompt", 8, "--generate", 1, "-r", 1]
        case "experts rank" | "experts sweep":
            mixture = folder / "moe.gguf"
            write_small_model(mixture, width=64, n_layers=2, n_experts=16, vocabulary_of=MODEL)
            rank = ["experts", "rank", mixture, *WINDOWS]
            if command == "experts rank":
                return rank
            ranking = folder / "ranking.json"
            call(*rank, "-o", ranking)
            return ["experts", "sweep", mixture, "--ranking", ranking, *WINDOWS]
    raise AssertionError(f"{command} has a schema and no call here")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_prints_is_what_its_schema_says(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonschema = needs_package("jsonschema", extra="dev")
    monkeypatch.setenv("GGSURGERY_CACHE", str(tmp_path / "cache"))
    document = json.loads(call(*arguments(command, tmp_path), "--json").out)
    page = schemas()
    checker = jsonschema.Draft202012Validator({**page, "$ref": f"#/$defs/{command}"})
    checker.check_schema(page)
    assert [f"{list(e.absolute_path)}: {e.message}" for e in checker.iter_errors(document)] == []
    if command in (
        "kl",
        "scan",
        "laco",
        "heal",
        "prune-depth",
        "prune-width",
        "influence",
        "search",
    ):
        digest = hashlib.sha256(SEARCH_TEXT.read_bytes()).hexdigest()
        assert document["text"] == {"file": SEARCH_TEXT.name, "sha256": digest}
    if command in ("perplexity", "kl", "choices", "evaluate", "bench"):
        path = tmp_path / "printed.json"
        path.write_text(json.dumps(document))
        (results,) = load_results(path)
        assert results.all_scores and results.model.checksum == document["model"]["checksum"]
        assert {s.direction for s in results.all_scores} <= {"lower", "higher"}


def test_a_schema_refuses_what_it_should() -> None:
    jsonschema = needs_package("jsonschema", extra="dev")
    checker = jsonschema.Draft202012Validator({**schemas(), "$ref": "#/$defs/kl"})
    assert not checker.is_valid({"ggsurgery": "kl", "version": 1})
    assert not checker.is_valid([])


def test_lists_of_scores_as_earlier_versions_printed_them_are_read(tmp_path: Path) -> None:
    score = {"metric": "kl_mean", "value": 0.1, "stderr": 0.01, "n": 9, "provenance": {}}
    path = tmp_path / "kl.json"
    path.write_text(json.dumps([score, {**score, "metric": "kl_max"}]))
    (results,) = load_results(path)
    assert [s.metric for s in results.scores] == ["kl_mean", "kl_max"]
