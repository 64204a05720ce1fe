"""The measuring commands from end to end on small models: figures, files, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from ggsurgery.errors import EngineError
from ggsurgery.ggufio.header import read_header
from tests._command import call, error_line
from tests._needs import needs_smollm2
from tests._small_models import write_small_model

QUESTIONS = [
    {
        "id": f"q{i}",
        "query": f"The answer to question {i} is",
        "choices": ["yes", "no", "maybe"],
        "answer": i % 3,
    }
    for i in range(6)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """base.gguf, cut.gguf without its layer 1, a text and questions."""
    path = tmp_path_factory.mktemp("evaluate")
    base = path / "base.gguf"
    write_small_model(base, width=64, n_layers=5, vocabulary_of=needs_smollm2())
    call("delete", "--layer", 1, base, path / "cut.gguf")
    (path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)
    (path / "q.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    return path


def run_json(*arguments: object):
    return call(*arguments, "--json").json


def test_kl_between_two_files_and_from_a_base_file(folder):
    options = ("--text", folder / "text.txt", "--ctx", 64, "--chunks", 3)
    both = run_json("kl", folder / "base.gguf", folder / "cut.gguf", *options)
    figures = {s["metric"]: s for s in both["scores"]}
    assert figures["kl_mean"]["value"] > 0.01
    assert figures["kl_mean"]["n"] == 3 * 31
    call("kl", folder / "base.gguf", *options, "--save-base", folder / "b.kl")
    assert (folder / "b.kl").stat().st_size > 3 * 31 * 256 * 8
    (bound, *_) = run_json("kl", folder / "cut.gguf", "--base-file", folder / "b.kl")["scores"]
    assert 0 < bound["value"] <= figures["kl_mean"]["value"] + 1e-6
    assert bound["provenance"]["lower_bound"] is True
    again = error_line("kl", folder / "base.gguf", *options, "--save-base", folder / "b.kl")
    assert "exists" in again
    for wrong in ((folder / "base.gguf",), (folder / "base.gguf", folder / "cut.gguf")):
        call("kl", *wrong, code=2)  # one file, or no text


def test_kl_table_names_its_unit(folder):
    done = call(
        "kl",
        folder / "base.gguf",
        folder / "base.gguf",
        "--text",
        folder / "text.txt",
        "--ctx",
        64,
        "--chunks",
        2,
    )
    assert "62 positions, in nats" in done.out
    assert "same likeliest token" in done.out


def test_kl_refuses_a_short_text(folder, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    said = error_line("kl", folder / "base.gguf", folder / "cut.gguf", "--text", short)
    assert "expected at least 512 tokens (one window)" in said and "found 3 tokens" in said


def test_choices_file_and_table(folder):
    out = folder / "choices.json"
    done = call("choices", folder / "base.gguf", "--data", folder / "q.jsonl", "-o", out)
    assert "n = 6, style plain, 0 shots, chance 0.3333" in done.out
    document = json.loads(out.read_text())
    assert document["model"]["layers"] == 5
    assert [s["metric"] for s in document["scores"]] == [
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_tokens",
    ]
    assert document["scores"][0]["ids"] == [q["id"] for q in QUESTIONS]
    said = error_line("choices", folder / "base.gguf", "--data", folder / "q.jsonl", "-o", out)
    assert "exists" in said
    shots = run_json(
        "choices",
        folder / "base.gguf",
        "--data",
        folder / "q.jsonl",
        "--shots",
        2,
        "--from",
        folder / "q.jsonl",
    )
    assert shots["scores"][0]["provenance"]["shots"] == 2
    call("choices", folder / "base.gguf", "--data", folder / "q.jsonl", "--shots", 2, code=2)


def test_choices_says_what_is_wrong_with_a_file_and_a_context(folder, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({**QUESTIONS[0], "answer": 3}))
    said = error_line("choices", folder / "base.gguf", "--data", bad)
    assert "bad.jsonl: line 1: field answer: expected 0 to 2, found 3" in said
    said = error_line(
        "choices",
        folder / "base.gguf",
        "--data",
        folder / "q.jsonl",
        "--ctx",
        8,
        "--shots",
        3,
        "--from",
        folder / "q.jsonl",
    )
    assert "too small for the longest question" in said


@pytest.fixture(scope="module")
def evaluated(folder):
    """`evaluate --baseline` on the cut, with its controls, and `evaluate` on the base."""
    cut, base = folder / "cut.json", folder / "base.json"
    done = call(
        "evaluate",
        folder / "cut.gguf",
        "--baseline",
        folder / "base.gguf",
        "--limit",
        2,
        "--random",
        2,
        "-o",
        cut,
    )
    call("evaluate", folder / "base.gguf", "--limit", 2, "-o", base)
    return done, cut, base


@pytest.mark.slow
def test_evaluate_builds_and_judges_its_controls(folder, evaluated):
    done, cut, _ = evaluated
    assert "Verdict: " in done.out
    assert "a trial, not a result" in done.err
    document = json.loads(cut.read_text())
    kinds = [c["kind"] for c in document["controls"]]
    assert kinds.count("random layers") == 2 and kinds.count("last layers") == 1
    assert "same bytes" in kinds
    drawn = [c["layers"] for c in document["controls"] if c["kind"] == "random layers"]
    assert [1] not in drawn  # the cut itself
    for control in document["controls"]:
        assert control["bytes"] > 0 and control["n"] > 0
        if control["kind"] != "same bytes":
            assert control["bytes"] == pytest.approx((folder / "cut.gguf").stat().st_size, rel=0.01)
    assert sorted(p.suffix for p in folder.iterdir() if "layers" in p.name) == []
    assert read_header(folder / "base.gguf").n_layers == 5  # never deleted, never changed


@pytest.mark.slow
def test_compare_and_report_read_what_evaluate_wrote(folder, evaluated):
    _, cut, base = evaluated
    done = call("compare", base, cut)
    assert "not distinguishable at n = " in done.out and "McNemar" in done.out
    call("compare", base, code=2)
    call("report", base, cut, "-o", folder / "r.html")
    page = (folder / "r.html").read_text()
    assert "Verdict: " in page and "<svg" in page


def test_inputs_survive_force(folder):
    base, cut, text, quiz = (folder / n for n in ("base.gguf", "cut.gguf", "text.txt", "q.jsonl"))
    before = {p: p.read_bytes() for p in (base, text, quiz)}
    for arguments in (
        ("kl", base, "--text", text, "--save-base", base),
        ("kl", base, "--text", text, "--save-base", text),
        ("choices", cut, "--data", quiz, "-o", quiz),
        ("evaluate", cut, "--baseline", base, "-o", base),
        ("evaluate", cut, "--weights", text, "-o", text),
    ):
        assert "same file" in error_line(*arguments, "--force")
    assert {p: p.read_bytes() for p in before} == before


def test_controls_that_cannot_be_chosen_are_named_before_the_work(folder, monkeypatch):
    def refuse(*_, **__):
        raise EngineError("no controls of this")

    monkeypatch.setattr("ggsurgery.jobs.evaluate.controls_of", refuse)
    monkeypatch.setattr(
        "ggsurgery.jobs.evaluate.worker.run", lambda *_, **__: pytest.fail("worked")
    )
    said = error_line("evaluate", folder / "cut.gguf", "--baseline", folder / "base.gguf")
    assert "no controls of this" in said


def test_options_that_would_have_no_effect_are_refused(folder):
    cut, text = folder / "cut.gguf", folder / "text.txt"
    for arguments in (
        ("kl", cut, "--base-file", "b.kl", "--text", text),
        ("kl", cut, "--base-file", "b.kl", "--ctx", 64),
        ("evaluate", cut, "--random", 3),
        ("evaluate", cut, "--seed", 1),
        ("evaluate", cut, "--no-controls"),
    ):
        call(*arguments, code=2)


def test_perplexities_of_other_texts_are_not_compared(folder, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Another text with other words in it. " * 60)
    for name, text in (("a", folder / "text.txt"), ("b", other)):
        found = run_json(
            "perplexity", folder / "cut.gguf", "--text", text, "--ctx", 64, "--chunks", 2
        )
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    said = error_line("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert "perplexity: the two runs differ in text: text.txt and other.txt" in said
    report = ("report", tmp_path / "a.json", tmp_path / "b.json", "-o", tmp_path / "r.md")
    assert "two results of perplexity differ in text" in error_line(*report)


def test_compare_needs_a_metric_in_common(folder, tmp_path):
    for name, metric in (("a", "acc"), ("b", "f1")):
        document = {"metric": metric, "value": 1.0, "stderr": None, "n": 3}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    said = error_line("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert "b.json: no metric in common with the base: expected acc, found f1" in said


def test_a_model_with_nan_weights_is_named_with_its_node(folder, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((folder / "base.gguf").read_bytes())
    tensor = next(t for t in GGUFReader(broken, "r+").tensors if t.name == "blk.2.ffn_up.weight")
    tensor.data[:] = np.float16(np.nan)
    tensor.data.flush()
    said = error_line(
        "kl", folder / "base.gguf", broken, "--text", folder / "text.txt", "--ctx", 64
    )
    assert "logits are not numbers" in said and "-2" in said and "broken.gguf" in said


def of_harness(path: Path, value: float, stderr: float | str, *, stated: bool) -> Path:
    """A result file as lm-evaluation-harness writes it for wikitext."""
    row = {"alias": "wikitext"}
    for name, one in (("word", value), ("byte", 1 + value / 100)):
        row |= {f"{name}_perplexity,none": one, f"{name}_perplexity_stderr,none": stderr}
    row |= {"bits_per_byte,none": value / 50, "bits_per_byte_stderr,none": stderr}
    document = {
        "results": {"wikitext": row},
        "n-samples": {"wikitext": {"original": 62, "effective": 62}},
        "model_name": path.stem,
    }
    if stated:
        names = ("word_perplexity", "byte_perplexity", "bits_per_byte")
        document["higher_is_better"] = {"wikitext": dict.fromkeys(names, False)}
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("stated", [True, False])
def test_more_perplexity_a_word_is_worse(tmp_path, stated):
    low = of_harness(tmp_path / "low.json", 20.0, 0.001, stated=stated)
    high = of_harness(tmp_path / "high.json", 35.0, 0.001, stated=stated)
    for base, other, verdict in ((low, high, "worse"), (high, low, "better")):
        (found,) = call("compare", base, other, "--json").json
        assert [m["verdict"] for m in found["metrics"]] == [verdict] * 3
        assert {m["direction"] for m in found["metrics"]} == {"lower"}
        call("report", base, other, "-o", tmp_path / "r.md", "--force")
        report = (tmp_path / "r.md").read_text()
        assert report.count("(less is better)") == 3
        assert report.count(f"; {verdict})") == 3 and "kept" not in report.split("Base:")[0]


def test_without_a_standard_error_nothing_is_tested(tmp_path):
    low, high = (of_harness(tmp_path / f"{v}.json", v, "N/A", stated=True) for v in (20.0, 35.0))
    (found,) = call("compare", low, high, "--json").json
    for metric in found["metrics"]:
        assert (metric["p_value"], metric["test"]) == (None, "none")
        assert metric["verdict"] == "not tested: a result has no standard error"
    assert " –  none  not tested" in call("compare", low, high).out.replace("    ", " ")
