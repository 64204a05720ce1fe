"""What a study holds, and what its verdict compares with: counts, units, controls."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggsurgery.find.search import optimize
from ggsurgery.find.search import report as reports
from ggsurgery.find.search import storage as storages
from ggsurgery.find.search.optimize import Budget, Work, run_worker
from ggsurgery.find.search.report import Verdict
from ggsurgery.find.search.run import Row, outcome
from ggsurgery.measure.controls import Control, Outcome, corrected
from ggsurgery.measure.results.comparison import paired
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.setup import Setup
from ggsurgery.plan.recipe import Recipe, step
from tests._needs import needs_package
from tests._tiny import MODEL, N_LAYERS, REPORT_TEXT, SEARCH_TEXT

pytestmark = pytest.mark.slow

SETUP = Setup(MODEL, text=SEARCH_TEXT, n_ctx=64, n_windows=4, n_threads=1)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    needs_package("optuna", extra="search")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def work(tmp_path: Path, **changes: Any) -> Work:
    made = Work(
        "s", SETUP, str(tmp_path / "s.db"), tmp_path / "s.jsonl", ("delete",), 1, Budget(count=500)
    )
    return replace(made, **changes)


def storages_trials(one: Work) -> list[Any]:
    storage = storages.open_storage(one.storage, 60)
    found: list[Any] = storages.optuna().load_study(study_name=one.name, storage=storage).trials
    return found


def test_repeats_are_no_trials(tmp_path: Path) -> None:
    """A space of few plans and many points: each trial is a configuration of its own."""
    one = work(
        tmp_path,
        kinds=("delete", "swap"),
        max_ops=2,
        budget=Budget(count=40),
        setup=replace(SETUP, n_windows=1),
        storage=str(tmp_path / "s.log"),
    )
    run_worker(one, "run")
    found, trials = outcome(one), storages_trials(one)
    assert found.tried == 40 == len(trials)
    assert len({t.user_attrs["digest"] for t in trials}) == 40


def test_a_space_that_is_used_up_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimize, "STALE", 40)
    one = work(
        tmp_path,
        max_ops=2,
        budget=Budget(count=10_000),
        sampler="random",
        setup=replace(SETUP, n_windows=1),
        storage=str(tmp_path / "s.log"),
    )
    run_worker(one, "run")
    found = outcome(one)
    pairs = N_LAYERS * (N_LAYERS - 1) // 2  # which two go; and which one
    assert 0.7 * (N_LAYERS + pairs) < found.tried <= N_LAYERS + pairs
    assert len(storages_trials(one)) == found.tried


def test_a_repeat_that_another_worker_made_counts_for_nothing(tmp_path: Path) -> None:
    one = work(tmp_path, setup=replace(SETUP, n_windows=1))
    run_worker(one, "run")
    storage = storages.open_storage(one.storage, 60)
    study = storages.optuna().load_study(study_name=one.name, storage=storage)
    study.enqueue_trial(study.trials[0].params)
    run_worker(one, "again")
    last = storages_trials(one)[-1]
    assert (last.state.name, last.values, last.user_attrs["same_as"]) == ("FAIL", None, 0)
    assert outcome(one).tried == N_LAYERS
    run_worker(one, "a third time")  # it is not taken for one that a dead worker left
    assert len(storages_trials(one)) == N_LAYERS + 1


def test_halved_trials_stand_in_the_study_as_perplexities(tmp_path: Path) -> None:
    setup = replace(SETUP, n_windows=8)
    run_worker(work(tmp_path, setup=setup, halving=True), "run")
    trials = storages_trials(work(tmp_path, setup=setup, halving=True))
    halved = [t for t in trials if t.state.name == "PRUNED"]
    lowest = min(t.value for t in trials if t.state.name == "COMPLETE")
    assert halved and lowest > 10
    for trial in halved:
        assert trial.value is None or trial.value > 0.5 * lowest
    for trial in trials:  # what was reported of the whole text so far, in the study's own unit
        assert all(v > 0.5 * lowest for v in trial.intermediate_values.values())


def test_the_uncut_model_is_a_control_of_a_swap(tmp_path: Path) -> None:
    row = Row(0, Recipe((step("swap", layers="0,5"),)), "d", (1.0,), None, (), None)
    verdict = reports.report(
        replace(SETUP, text=REPORT_TEXT), row, 1, tmp_path / "j.jsonl", tmp_path
    )
    (uncut,) = [c for c in verdict.controls if c.control.name == "uncut"]
    assert uncut.score == verdict.base and uncut.difference is not None
    assert uncut.difference.value == -verdict.to_base.value < 0  # a swap of these two costs much
    assert "uncut" in verdict.unbeaten
    cut = Row(0, Recipe((step("delete", layer="1"),)), "d", (1.0,), None, (), None)
    verdict = reports.report(
        replace(SETUP, text=REPORT_TEXT), cut, 1, tmp_path / "k.jsonl", tmp_path
    )
    assert "uncut" not in [c.control.name for c in verdict.controls]


def answers(*items: float) -> Score:
    mean = sum(items) / len(items)
    return Score("choices", mean, 0.0, len(items), {"chance": 0.5}, items)


def test_three_questions_alike_are_no_clear_difference() -> None:
    right, wrong = answers(1.0, 1.0, 1.0), answers(0.0, 0.0, 0.0)
    found = paired(right, wrong)
    assert found.stderr == 0 and found.p_value == 0.25  # McNemar
    assert found.interval is not None and found.interval.low < 0
    clear = paired(answers(*[1.0] * 8), answers(*[0.0] * 8))
    assert clear.p_value is not None and clear.p_value < 0.05 and (-clear).value == -1
    row = Row(0, Recipe((step("delete", layer="1"),)), "d", (1.0,), None, (), None)
    assert right.interval is not None and right.interval.low < 0.5
    control = Control("random 3", "random layers", (3,))
    outcomes = corrected([Outcome(control, None, right, -found)])
    verdict = Verdict(row, right, right, found, tuple(outcomes), 4, "higher", "choices:x")
    assert verdict.unbeaten == ("random 3",) and "McNemar" in verdict.rule


def test_a_winner_must_beat_each_of_many_controls_by_more() -> None:
    """Eight right answers more: shown against one control, not against each of eight."""
    row = Row(0, Recipe((step("delete", layer="1"),)), "d", (1.0,), None, (), None)
    winner, other = answers(*[1.0] * 8), answers(*[0.0] * 8)
    lost = Outcome(Control("random 3", "random layers", (3,)), None, other, paired(other, winner))
    for count, beaten in ((1, True), (8, False)):
        controls = tuple(corrected([lost] * count))
        verdict = Verdict(row, other, winner, paired(winner, other), controls, 4, "higher")
        assert (verdict.unbeaten == ()) is beaten
