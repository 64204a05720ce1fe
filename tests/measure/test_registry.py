"""Every figure that a command writes has a direction, and all commands read the same one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import ggsurgery
from ggsurgery.cli import cli
from ggsurgery.errors import FormatError, GGSurgeryError
from ggsurgery.find.figures import scan_figure
from ggsurgery.measure.bench.tasks import TASKS
from ggsurgery.measure.metrics import choices
from ggsurgery.measure.metrics.kl import Divergence
from ggsurgery.measure.registry import METRICS, askable, direction_of, metric_of
from ggsurgery.measure.results.comparison import compare
from ggsurgery.measure.results.result_files import load_results
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.suite.data import PARTS
from ggsurgery.measure.suite.result import Part, SurgeryScore
from ggsurgery.report.compute import compute_report
from tests._needs import needs_package

LOWER = (
    "perplexity",
    "perplexity_ratio",
    "kl",
    "kl_mean",
    "kl_median",
    "kl_p99",
    "kl_max",
    "word_perplexity",
    "byte_perplexity",
    "bits_per_byte",
)


def names_in_the_source() -> set[str]:
    """Metrics that the package names where it makes a score."""
    found = set()
    for path in Path(ggsurgery.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                if node.func.id in ("Score", "mean_score") and isinstance(first, ast.Constant):
                    found.add(first.value)
    return found - {"log"}  # of a ratio's logarithm, which no file holds


def test_every_metric_that_a_command_writes_has_a_direction() -> None:
    ones = np.ones(4)
    kl = Divergence(ones, ones, ones, ones, 2).scores({})
    suite = SurgeryScore(tuple(Part(name, 1.0, (0.0, 1.0)) for name in PARTS)).scores()
    harness = {m["metric"] for t in TASKS.values() for m in t.config["metric_list"]}
    written = {s.metric for s in (*kl, *suite)} | set(choices.METRICS) | set(askable()) | harness
    written |= names_in_the_source()
    assert len(written) > 20 and "perplexity" in written
    assert [name for name in sorted(written) if direction_of(name) is None] == []
    assert {name for name in METRICS if METRICS[name].direction == "lower"} == set(LOWER)
    for name in written:
        assert direction_of(name) == ("lower" if metric_of(name).name in LOWER else "higher")  # type: ignore[union-attr]


def test_our_directions_are_the_harness_s_own() -> None:
    needs_package("lm_eval", extra="bench")
    import lm_eval.api.metrics  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import is_higher_better

    for name in (
        "acc",
        "acc_norm",
        "acc_bytes",
        "exact_match",
        "f1",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
        "perplexity",
    ):
        theirs = is_higher_better(name)
        if theirs is not None:
            assert direction_of(name) == ("higher" if theirs else "lower"), name


def write(folder: Path, name: str, *scores: Score) -> str:
    path = folder / name
    path.write_text(json.dumps([s.to_json() for s in scores]))
    return str(path)


def two_files(folder: Path) -> tuple[str, str]:
    """The figures of a good file and of a bad one: every one of the bad one is worse."""

    def scores(ratio: float, kl: float, words: float, file: str) -> tuple[Score, ...]:
        facts = {"file": file}
        text = {**facts, "task": "wikitext"}
        return (
            Score("perplexity_ratio", ratio, 0.001, 4000, facts),
            Score("kl_mean", kl, 0.001, 4000, facts),
            Score("word_perplexity", words, 0.2, 62, text),
            Score("byte_perplexity", words / 10, 0.02, 62, text),
            Score("bits_per_byte", words / 20, 0.01, 62, text),
        )

    good, bad = scores(1.006, 0.006, 20.0, "q8.gguf"), scores(1.5, 0.5, 35.0, "q2.gguf")
    return write(folder, "q8.json", *good), write(folder, "q2.json", *bad)


def test_a_worse_model_is_called_worse_by_compare_and_report(tmp_path: Path) -> None:
    good, bad = two_files(tmp_path)
    done = CliRunner().invoke(cli, ["compare", good, bad, "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    assert [m["verdict"] for m in found["metrics"]] == ["worse"] * 5
    done = CliRunner().invoke(cli, ["compare", bad, good, "--json"])
    assert [m["verdict"] for m in json.loads(done.stdout)[0]["metrics"]] == ["better"] * 5
    out = tmp_path / "r.json"
    done = CliRunner().invoke(cli, ["report", good, bad, "-o", str(out)])
    assert done.exit_code == 0, done.output
    for row in json.loads(out.read_text())["rows"]:
        assert row["direction"] == "lower"
        cell = row["cells"][1]
        assert (cell["verdict"], cell["retention"], cell["status"]) == ("worse", None, None)


def test_the_harness_s_own_word_counts(tmp_path: Path) -> None:
    def document(bleu: float, ter: float, name: str) -> str:
        path = tmp_path / f"{name}.json"
        path.write_text(
            json.dumps(
                {
                    "results": {
                        "wmt": {
                            "alias": "wmt",
                            "bleu,none": bleu,
                            "bleu_stderr,none": 0.1,
                            "ter,none": ter,
                            "ter_stderr,none": 0.1,
                            "odd,none": 3.0,
                        }
                    },
                    "higher_is_better": {"wmt": {"bleu": True, "ter": False, "odd": None}},
                    "n-samples": {"wmt": {"effective": 100}},
                    "model_name": f"{name}.gguf",
                }
            )
        )
        return str(path)

    base, cut = document(30, 50, "base"), document(20, 70, "cut")
    (found,) = load_results(base)
    assert [(s.metric, s.direction) for s in found.scores] == [("bleu", "higher"), ("ter", "lower")]
    done = CliRunner().invoke(cli, ["compare", base, cut, "--json"])
    assert [m["verdict"] for m in json.loads(done.stdout)[0]["metrics"]] == ["worse", "worse"]


def test_an_unknown_direction_is_not_guessed() -> None:
    a, b = Score("novel", 1.0, 0.01, 9), Score("novel", 2.0, 0.01, 9)
    found = compare(a, b)
    assert not found.better and not found.worse
    assert found.verdict == "different; which is better is not known"
    up = Score("novel", 2.0, 0.01, 9, direction="higher")
    assert compare(a, up).verdict == "better"
    with pytest.raises(GGSurgeryError, match="disagree"):
        compare(Score("novel", 1.0, 0.01, 9, direction="lower"), up)


def test_a_direction_survives_its_file() -> None:
    score = Score("novel", 1.0, None, 3, direction="lower")
    again = Score.from_json(json.loads(json.dumps(score.to_json())))
    assert again.direction == "lower" and again.lower_is_better
    assert Score.from_json({"metric": "bits_per_byte", "value": 1, "n": 3}).direction == "lower"
    with pytest.raises(FormatError, match=r"field direction: .*found the text 'up'"):
        Score.from_json({**score.to_json(), "direction": "up"})


def test_scans_and_setups_read_the_same_table() -> None:
    for metric, lower in (
        ("perplexity", True),
        ("kl", True),
        ("suite", False),
        ("choices:kl.jsonl", False),
        ("gsm8k:x.jsonl", False),
    ):
        assert Setup(Path("m.gguf"), metric=metric).lower_is_better is lower
        document = {"metric": metric, "operation": "delete", "base": {"value": 1}, "rows": []}
        assert ("Less is better" in scan_figure(document).note) is lower
        document["direction"] = "higher" if lower else "lower"  # what was measured decides
        assert ("Less is better" in scan_figure(document).note) is not lower


def test_rows_of_a_report_carry_their_direction(tmp_path: Path) -> None:
    good, bad = two_files(tmp_path)
    report = compute_report([*load_results(good), *load_results(bad)])
    assert all(row.lower_is_better for row in report.rows)
