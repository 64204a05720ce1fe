"""What every metric of the registry keeps, and what adding one takes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from ggsurgery.cli import cli
from ggsurgery.errors import GGSurgeryError
from ggsurgery.find.scan import Scan
from ggsurgery.measure.meter import Meter, meter_of
from ggsurgery.measure.metrics import bench
from ggsurgery.measure.registry import METRICS, Direction, Metric, askable, direction_of, headlines
from ggsurgery.measure.results.comparison import compare, paired
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.suite.run import run_part, run_suite
from ggsurgery.measure.variants.batch import Trial, try_one
from ggsurgery.measure.variants.measure import Measurer
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.runtime.engine import Engine
from tests._needs import needs_package
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT
from tests.measure import toy_metric

QUESTIONS = 6
WINDOWS = 3
MEASURED = sorted(row.name for row in METRICS.values() if row.meter is not None)
CUT = Recipe((step("delete", layer="4"),))


def setup_of(metric: str, folder: Path) -> Setup:
    """Every metric on the small model, as small as it goes."""
    row = METRICS[metric]
    data = folder / ("piqa.jsonl" if row.needs == "task" else f"{metric}.jsonl")
    lines = [
        {"id": f"q{i}", "question": f"{i} + 1?", "final": str(i + 1)}
        if metric == "gsm8k"
        else {"id": f"q{i}", "query": "import", "choices": [" sys", " zqj"], "answer": i % 2}
        for i in range(QUESTIONS)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if row.needs == "task":
        needs_package("lm_eval", extra="bench")
    written = {"questions": f"{metric}:{data}", "task": f"{metric}:{data.with_suffix('')}"}
    return Setup(
        MODEL,
        written.get(row.needs, metric),
        text=SEARCH_TEXT if row.needs == "text" else None,
        n_ctx=64,
        n_windows=WINDOWS,
        limit=2 if row.needs == "nothing" else None,
        n_threads=1,
    )


Made = tuple[Measurer, Score, Trial]


@pytest.fixture(scope="module", params=MEASURED)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    """A metric's measurer, the uncut model's figure, and that of a cut."""
    with Measurer(setup_of(request.param, tmp_path_factory.mktemp("m"))) as measurer:
        yield measurer, measurer.base, try_one(measurer, CUT, "key")


def test_figures_carry_the_name_and_direction_of_their_row(made: Made) -> None:
    measurer, base, trial = made
    row = measurer.meter.row
    assert trial.error is None and trial.measured is not None
    for score in (base, trial.measured):
        assert (score.metric, score.direction) == (row.name, row.direction)
        assert score.n > 0 and math.isfinite(score.value)
        assert score.is_share is (row.unit == "share")
        assert (score.interval is not None) is (score.stderr is not None)


def test_items_are_windows_or_questions_and_the_figure_is_theirs(made: Made) -> None:
    measurer, base, trial = made
    row = measurer.meter.row
    sizes = {"text": WINDOWS, "questions": QUESTIONS, "task": QUESTIONS}
    part = row.name.startswith("surgery_")
    units = base.n if part else sizes.get(row.needs, 0)
    assert trial.measured is not None and trial.difference is not None
    for score in (base, trial.measured):
        assert len(score.items) == units and (part or score.ids[:1] in ((), ("q0",)))
        if units:
            again = measurer.meter.score(score.items)
            value = min(max(again.value, 0.0), 1.0) if part else again.value
            assert (value, again.n) == (pytest.approx(score.value), score.n)
            assert again.stderr == pytest.approx(score.stderr)
    assert base.ids == trial.measured.ids
    assert trial.difference.n == units == (paired(base, base).n)
    assert (trial.difference.p_value is None) is (units == 0)


def test_the_uncut_model_does_not_differ_from_itself(made: Made) -> None:
    measurer, base, _ = made
    again = measurer.measure(measurer.session.identity)
    assert again.value == pytest.approx(base.value, abs=2e-3)  # a base file keeps 256 tokens
    assert measurer.difference(base).value == 0
    assert compare(base, base).verdict.startswith("not distinguishable")


def test_a_trial_survives_its_journal(made: Made) -> None:
    measurer, base, trial = made
    for one in (trial, Trial(Recipe(()), "base", base, None, 0.0)):
        read = Trial.from_json(json.loads(json.dumps(one.to_json())), "j", measurer.meter.row)
        assert read.difference == one.difference and read.measured is not None
        assert read.measured.to_json() | {"ids": None} == one.measured.to_json() | {"ids": None}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", METRICS)
def test_rows(name: str) -> None:
    row = METRICS[name]
    assert row.name == name and row.label and row.direction in get_args(Direction)
    assert (
        direction_of(f"{name} (strict-match)") == row.direction == direction_of(f"{name}:a.jsonl")
    )
    if row.meter is None:
        assert row.needs == "nothing"
        with pytest.raises(GGSurgeryError, match="unknown metric: expected perplexity or kl"):
            meter_of(row)
    else:
        assert isinstance(meter_of(row), Meter) and row.written in askable()


def figures(row: Metric, n: int = 12) -> tuple[Score, Score]:
    """A good and a bad figure, of items."""
    small = [0.2 + 0.01 * (i % 3) for i in range(n)]
    large = [v + 0.3 + 0.01 * (i % 5) for i, v in enumerate(small)]
    low, high = (
        Score(row.name, sum(v) / n, 0.01, n, {}, tuple(v), tuple(f"u{i}" for i in range(n)))
        for v in (small, large)
    )
    return (low, high) if row.direction == "lower" else (high, low)


@pytest.mark.parametrize("name", METRICS)
def test_worse_is_called_worse(name: str) -> None:
    good, bad = figures(METRICS[name])
    assert compare(good, bad).verdict == "worse" and compare(bad, good).verdict == "better"


@pytest.mark.parametrize("name", METRICS)
def test_scores_survive_their_files(name: str) -> None:
    row = METRICS[name]
    for value, stderr in ((0.5, 0.1), (0.5, None), (math.nan, None), (math.inf, math.nan)):
        score = Score(name, value, stderr, 3, {"task": "t"}, (value, 0.1, 0.2), ("a", "b", "c"))
        text = json.dumps(score.to_json(), allow_nan=False)
        again = Score.from_json(json.loads(text))
        assert json.dumps(again.to_json()) == text and again.direction == row.direction


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_no_number_proves_nothing(name: str) -> None:
    row = METRICS[name]
    meter = meter_of(row)
    good, broken = meter.score([0.5, 0.6, 0.7]), meter.score([0.5, math.nan, 0.7])
    assert math.isnan(broken.value)
    difference = paired(broken, good)
    assert math.isnan(difference.value) and difference.p_value is None
    assert compare(good, broken).verdict.startswith("not distinguishable")
    first, last = (
        Trial(Recipe((step("delete", layer=str(i)),)), str(i), score, paired(score, good), 0.0)
        for i, score in enumerate((broken, good))
    )
    found = Scan("delete", name, row.direction == "lower", good, (first, last), (0.0, 1.0))
    assert found.ranked() == [last, first] and found.corrected == [None, 1.0]


@pytest.mark.parametrize("name", MEASURED)
def test_empty_data_are_an_error_that_names_them(name: str, tmp_path: Path) -> None:
    row, empty = METRICS[name], tmp_path / "empty"
    empty.write_text("")
    if row.needs == "nothing":
        meter_of(row).read(Setup(MODEL, name))  # nothing is read
        return
    given = {"text": empty} if row.needs == "text" else {}
    metric = f"{name}:{empty}" if row.needs == "questions" else name
    if row.needs == "task":
        needs_package("lm_eval", extra="bench")
        empty.rename(tmp_path / "piqa.jsonl")
        metric = f"{name}:{tmp_path / 'piqa'}"
    with pytest.raises(GGSurgeryError) as caught:
        Measurer(Setup(MODEL, metric, n_ctx=64, **given))
    assert any(word in str(caught.value) for word in ("empty", "too short", "no "))
    with pytest.raises(GGSurgeryError):
        Measurer(Setup(MODEL, name, n_ctx=64))
    assert meter_of(row).score([]).n == 0 and math.isnan(meter_of(row).score([]).value)


def test_the_direction_of_a_task_is_the_harness_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """`score` picks the figure; a figure that the registry does not know has one, too."""
    row = METRICS["bench"]
    flags = {"acc": "higher", "acc_norm": "higher", "wer": "lower"}
    monkeypatch.setattr(bench, "_directions", lambda _: flags)
    for score, name in (("acc_norm", "acc_norm"), ("acc", "acc"), ("f1", "acc")):
        assert bench.row_of_task(row, "task", score).name == name
    monkeypatch.setattr(bench, "_directions", lambda _: {"wer": "lower"})
    found = Setup(MODEL, "bench:task")
    assert found.asked.name == "wer" and found.lower_is_better
    monkeypatch.setattr(bench, "_directions", lambda _: {})
    with pytest.raises(GGSurgeryError, match="no metric a direction"):
        Setup(MODEL, "bench:task")


def test_a_part_is_the_suites_own() -> None:
    with Engine.open(MODEL, n_ctx=1536, n_threads=1) as engine:
        whole = run_suite(engine, limit=2)
        for name in ("coherence", "stop"):
            part = whole.part(name)
            assert run_part(engine, name, limit=2).items == part.items


def test_headlines_are_in_the_order_of_their_places() -> None:
    assert headlines()[:3] == ["surgery", "acc_norm", "acc"]
    places = [METRICS[name].headline for name in headlines()]
    assert places == list(range(1, len(places) + 1))


def test_a_new_metric_is_one_file_and_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """`scan` measures it, in a process of its own, and says what it is and what is better."""
    monkeypatch.setitem(METRICS, toy_metric.ROW.name, toy_metric.ROW)
    more = ["--text", str(SEARCH_TEXT), "--ctx", "64", "--windows", "3", "--threads", "1"]

    def rows(metric: str) -> tuple[dict[str, float], list[float]]:
        done = CliRunner().invoke(cli, ["scan", str(MODEL), "--metric", metric, *more, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        document = json.loads(done.stdout)
        return document["base"], [row["value"] for row in document["rows"]]

    base, values = rows("bits_per_token")
    other, perplexities = rows("perplexity")
    assert base["value"] == pytest.approx(math.log2(other["value"])) and len(values) == N_LAYERS
    assert [2**v for v in values] == pytest.approx(perplexities)
    done = CliRunner().invoke(cli, ["scan", str(MODEL), "--metric", "novel", *more])
    assert "or gsm8k:FILE or bench:TASK or" in str(done.exception)
