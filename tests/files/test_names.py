"""Names of models of any length become names of files."""

from __future__ import annotations

import pytest

from ggsurgery.files.names import MAX_STEM_BYTES, fitting
from ggsurgery.quantize.ladder import base_name
from ggsurgery.release.request import safe_name

from .._command import call
from .._needs import ROOT, needs_package
from .._tiny import SEARCH_TEXT


@pytest.mark.parametrize("letter", ["x", "漢", "é"])
def test_a_long_name_is_shortened_and_stays_its_own(letter):
    one, other = fitting(letter * 300), fitting(letter * 301)
    assert one != other
    assert len(one.encode()) <= MAX_STEM_BYTES
    assert one.startswith(letter * 40)
    assert fitting("a" * MAX_STEM_BYTES) == "a" * MAX_STEM_BYTES


def test_names_of_releases_and_ladders(tmp_path):
    assert len(f"{safe_name('n' * 300)}-IQ3_XXS-00001-of-00002.gguf") < 255
    assert len(f"{base_name(tmp_path / ('n' * 250 + '.gguf'))}-IQ3_XXS.gguf") < 255


def test_a_release_and_a_run_of_a_long_name(tmp_path):
    model = ROOT / "models" / "tiny-qwen3" / "tiny-qwen3.gguf"
    call("meta", "set", "general.name", "n" * 300, model, tmp_path / "a.gguf")
    call("release", tmp_path / "a.gguf", "--out", tmp_path / "bundle")
    assert len(list((tmp_path / "bundle").glob("nnn*.gguf"))) == 1
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: {'n' * 300}\nsource: {{file: {model}}}\noperations: [{{delete: {{layer: '1'}}}}]\n"
    )
    call("run", recipe, "--out", tmp_path / "run")
    assert len(list((tmp_path / "run").glob("nnn*.gguf"))) == 1


def test_a_study_of_a_long_name_and_questions_of_a_long_name(tmp_path, monkeypatch):
    needs_package("optuna", extra="search")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = ROOT / "models" / "tiny-qwen3" / "tiny-qwen3.gguf"
    common = ("search", model, "--text", SEARCH_TEXT, "--ctx", 64, "--windows", 1, "--budget", 1)
    for study in ("n" * 300, "n" * 301):
        found = call(*common, "--space", "delete", "--max-ops", 1, "--study", study, "--json").json
        assert found["study"] == study and found["tried"] == 1
        assert (tmp_path / found["storage"]).is_file()
    assert len(list(tmp_path.glob("nnn*.db"))) == 2
    data = tmp_path / f"{'q' * 240}.jsonl"
    data.write_text(
        '{"id": "1", "query": "Hello?", "choices": ["Yes", "No"], "answer": 0}\n', "utf-8"
    )
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: S\nsource: {{file: {model}}}\nevaluate: {{choices: [{{data: {data}}}]}}\n"
    )
    call("run", recipe, "--out", tmp_path / "run")
    assert len(list((tmp_path / "run" / "results").glob("cut.choices-qqq*.json"))) == 1
