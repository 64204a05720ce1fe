"""What is kept of a base's figure: one rule and one set of words for report and card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ggsurgery.measure.results.facts import ModelFacts
from ggsurgery.measure.results.result_files import Results
from ggsurgery.measure.results.score import Score, mean_score
from ggsurgery.measure.retention import LEGEND, is_near_random, retention
from ggsurgery.release import sections
from ggsurgery.release.request import ReleaseFile
from ggsurgery.report.compute import compute_report
from ggsurgery.report.html import render_html
from ggsurgery.report.markdown import render_markdown


@pytest.mark.parametrize(
    ("base", "other", "word"),
    [
        (0.7954, 0.6567, "Good"),
        (0.8309, 0.6177, "Acceptable"),
        (0.7855, 0.4852, "Degraded"),
        (0.7689, 0.2512, "Not recommended"),
    ],
)
def test_status_words_are_those_of_the_published_card(base, other, word):
    share, found = retention(Score("acc", base, None, 100), Score("acc", other, None, 100))
    assert (share, found) == (pytest.approx(other / base), word)


@pytest.mark.parametrize(
    "metric",
    [
        "perplexity",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
        "perplexity_ratio",
        "kl_mean",
        "top1_agreement",
        "never heard of",
    ],
)
def test_there_is_no_share_where_it_means_nothing(metric):
    assert retention(Score(metric, 20.0, 1, 9), Score(metric, 35.0, 1, 9)) == (None, None)


def test_near_random_beats_every_share():
    facts = {"chance": 0.25}
    near = Score("acc", 0.26, 0.02, 400, facts)
    assert retention(Score("acc", 0.27, 0.02, 400, facts), near)[1] == "Near random"
    assert not is_near_random(replace(near, value=0.35))
    assert not is_near_random(replace(near, provenance={}))  # no chance level, no verdict


@pytest.mark.parametrize(
    ("right", "n", "near"),
    [(0, 10, True), (0, 3, True), (1, 4, True), (2, 2, False), (10, 10, False), (2, 3, True)],
)
def test_report_and_card_agree_whatever_the_standard_error(right, n, near, tmp_path: Path):
    def results(name: str, right: int, n: int) -> Results:
        items = [1.0] * right + [0.0] * (n - right)
        score = mean_score("acc", items, {"task": "ARC", "chance": 0.25})
        return Results(ModelFacts(name, f"{name}.gguf"), (score,))

    base, cut = results("base", n, n), results("cut", right, n)
    (row,) = compute_report([base, cut]).rows
    cell = row.cells[1]
    assert cell is not None
    path = tmp_path / "cut.gguf"
    file = ReleaseFile.__new__(ReleaseFile)
    for name, value in (("name", path.name), ("ftype", "Q8_0"), ("results", cut)):
        object.__setattr__(file, name, value)
    section = "\n".join(sections.retention([file], base)).splitlines()
    (line,) = [s for s in section if s.startswith("| ARC acc")]
    assert line.rstrip(" |").endswith(str(cell.status))
    assert (cell.status == "Near random") is near


def test_all_three_say_what_the_words_mean():
    def results(name: str, value: float) -> Results:
        score = Score("acc", value, 0.01, 1000, {"task": "ARC", "chance": 0.25})
        return Results(ModelFacts(name, f"{name}.gguf"), (score,))

    report = compute_report([results("base", 0.8), results("cut", 0.6)])
    assert LEGEND in render_markdown(report)
    assert LEGEND in render_html(report).replace("\n", " ")


def test_no_share_is_printed_without_width():
    """0 of 3 and 20 of 20 have a standard error of 0, which is no certainty."""

    def results(name: str, right: int, n: int) -> Results:
        items = [1.0] * right + [0.0] * (n - right)
        return Results(ModelFacts(name, f"{name}.gguf"), (mean_score("acc", items, {"task": "q"}),))

    for right, n, words in ((0, 3, "0.0000 [0.0000, 0.5615]"), (20, 20, "1.0000 [0.8389, 1.0000]")):
        report = compute_report([results("base", right, n)])
        assert words in render_markdown(report).replace("\\", "")
        assert words in render_html(report)
        cell = json.loads(json.dumps(report.to_json()))["rows"][0]["cells"][0]
        assert cell["interval"]["low"] < cell["interval"]["high"]
