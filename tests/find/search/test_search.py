"""Spaces, studies and reports on the tiny model, in one process at a time."""

from __future__ import annotations

import json
import signal
import time
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ggsurgery.cli import cli
from ggsurgery.errors import (
    ArchitectureError,
    EngineError,
    GGSurgeryError,
    OutputError,
    PlanError,
    RequestError,
)
from ggsurgery.find.scan import scan
from ggsurgery.find.search import dead_workers, optimize
from ggsurgery.find.search import run as runs
from ggsurgery.find.search import storage as storages
from ggsurgery.find.search import study as studies
from ggsurgery.find.search.disjoint import check_disjoint
from ggsurgery.find.search.enqueue import point_of
from ggsurgery.find.search.optimize import Budget, Work, run_worker
from ggsurgery.find.search.report import Verdict
from ggsurgery.find.search.run import Row, outcome, pareto, search
from ggsurgery.find.search.space import KINDS, Space, alike
from ggsurgery.jobs.search import parse_budget, reporting_setup
from ggsurgery.measure.controls import Control, Outcome
from ggsurgery.measure.results.comparison import Difference
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.results.statistics import paired_test
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.variants.journal import Journal
from ggsurgery.measure.variants.measure import Measurer
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.plan.types import Plan
from tests._needs import needs_package
from tests._tiny import MODEL, N_LAYERS, REPORT_TEXT, SEARCH_TEXT

pytestmark = pytest.mark.slow

search_command = import_module("ggsurgery.cli.search")

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


def test_singles_are_all_different_and_complete() -> None:
    space = Space(("delete", "swap", "duplicate", "merge"), 6, 2)
    points = list(space.singles())
    plans = {space.recipe(p).apply(Plan.identity(6)).digest for p in points}
    assert len(plans) == len(points)
    # 6 deletions, swaps at 1, 2, 3 (5 + 4 + 3), 6 copies, merges of 2, 3, 4 layers (5 + 4 + 3)
    assert len(points) == 6 + 12 + 6 + 12
    axes = space.axes()
    assert all(p[name] in values for p in points for name, values in axes.items())


def test_controls_of_a_swap_are_swaps_elsewhere() -> None:
    recipe = Recipe((step("swap", layers="1,2"), step("delete", layer="4")))
    found = alike(recipe, N_LAYERS, 3, seed=1)
    plans = {r.apply(Plan.identity(N_LAYERS)).digest for r in [recipe, *found]}
    assert len(found) == 3 and len(plans) == 4
    assert all([s.operation for s in r.steps] == ["swap", "delete"] for r in found)
    assert found == alike(recipe, N_LAYERS, 3, seed=1)


def test_every_point_is_a_recipe_or_too_short_a_stack() -> None:
    import random

    rng = random.Random(3)
    space = Space(KINDS, 7, 3)
    axes = space.axes()
    for _ in range(300):
        point = {name: rng.choice(values) for name, values in axes.items()}
        recipe = space.recipe(point)
        assert 1 <= len(recipe.steps) <= 3
        assert recipe.apply(Plan.identity(7)).n_layers >= 1


def test_a_space_that_the_rules_leave_empty(tmp_path: Path) -> None:
    from ggsurgery.arch import rules_for
    from ggsurgery.ggufio.header import read_header

    header = read_header(MODEL)
    rules = rules_for(header)
    assert Space(("delete",), N_LAYERS).check(header, rules) == N_LAYERS

    class Refusing:
        def n_tail(self, header: Any) -> int:
            return 0

        def rewrite(self, headers: Any, plan: Any) -> None:
            raise ArchitectureError("layers stay in fours")

    strict: Any = Refusing()
    with pytest.raises(ArchitectureError, match=r"no operation .*delete.*layers stay in fours"):
        Space(("delete",), N_LAYERS).check(header, strict)
    with pytest.raises(PlanError, match="unknown operation"):
        Space(("rotate",), 4)
    with pytest.raises(PlanError, match="too few layers are left: expected 2 or more, found 1"):
        Space(("delete",), 1).check(header, strict)


def test_exhaustive_search_is_the_scan(tmp_path: Path) -> None:
    one = work(tmp_path)
    run_worker(one, "run")
    found = outcome(one)
    expected = scan(SETUP, "delete", tmp_path / "scan.jsonl").ranked()
    assert [r.recipe for r in found.ranked] == [t.recipe for t in expected]
    for row, trial in zip(found.ranked, expected, strict=True):
        assert trial.measured is not None
        assert row.values[0] == pytest.approx(trial.measured.value, rel=1e-6)
    size = one.journal.stat().st_size
    run_worker(one, "again")  # nothing left to do
    assert one.journal.stat().st_size == size and outcome(one).tried == N_LAYERS


def test_halving_finds_one_as_good_for_less(tmp_path: Path) -> None:
    setup = replace(SETUP, n_windows=8)
    one = work(tmp_path, setup=setup, halving=True)
    run_worker(one, "run")
    found = outcome(one)
    whole = scan(setup, "delete", tmp_path / "scan.jsonl")
    best = whole.ranked()[0].measured
    assert best is not None and found.tried == N_LAYERS and len(found.ranked) < N_LAYERS
    winner = found.ranked[0]
    tested = paired_test(best.items, winner.items)  # all windows of both
    assert len(winner.items) == 8 and tested is not None and tested.p_value > 0.05
    assert winner.recipe in [t.recipe for t in whole.ranked()[: N_LAYERS // 2]]
    assert all("stopped early" in str(r.error) for r in found.rows[len(found.ranked) :])


def test_halving_survives_a_candidate_without_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is worse than it, so it must not become what others are compared with."""
    real, calls = optimize.window_losses, []

    def losses(candidate: Any, index: int) -> Any:
        calls.append(index)
        found = real(candidate, index)
        return found * float("nan") if len(calls) <= 4 else found

    monkeypatch.setattr(optimize, "window_losses", losses)
    one = work(tmp_path, halving=True)
    run_worker(one, "run")
    found = outcome(one)
    assert found.tried == N_LAYERS and found.ranked
    assert "not a number" in str(next(r.error for r in found.rows if r.number == 0))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "grid"])
def test_samplers_never_measure_a_plan_twice(sampler: str, tmp_path: Path) -> None:
    one = work(
        tmp_path,
        kinds=("delete", "swap"),
        max_ops=2,
        budget=Budget(count=12),
        sampler=sampler,
        setup=replace(SETUP, n_windows=1),
        storage=str(tmp_path / "s.log"),
    )
    run_worker(one, "run")
    found = outcome(one)
    assert found.tried >= 12
    assert len({r.digest for r in found.rows}) == found.tried
    lines = [json.loads(line) for line in one.journal.read_text().splitlines()]
    measured = [entry["digest"] for entry in lines if "digest" in entry]
    assert len(measured) == len(set(measured))
    if sampler != "grid":  # half of the budget went to single operations, the rest is free
        assert any(len(r.recipe.steps) == 2 for r in found.rows)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_hand_made_recipes_are_trials(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "POPULATION", 4)
    inside = Recipe((step("swap", layers="3,4"), step("delete", layer="1")))
    outside = Recipe((step("keep", layers="0-6,9"),))
    impossible = Recipe((step("delete", layer="77"),))
    one = work(
        tmp_path,
        kinds=("delete", "swap"),
        max_ops=2,
        budget=Budget(count=12),
        sampler=sampler,
        setup=replace(SETUP, n_windows=1),
        recipes=(inside, outside, impossible),
    )
    space = Space(one.kinds, N_LAYERS, 2)
    point = point_of(space, inside)
    identity = Plan.identity(N_LAYERS)
    assert point is not None
    assert space.recipe(point).apply(identity) == inside.apply(identity)
    assert point_of(space, outside) is None and point_of(space, impossible) is None
    run_worker(one, "run")
    found = outcome(one)
    assert found.tried >= 12
    by_plan = {r.digest: r for r in found.rows}
    for recipe in (inside, outside):
        row = by_plan[recipe.apply(identity).digest]
        assert row.hand_made and row.error is None and row.number < 3
    sampled = [r for r in found.rows if not r.hand_made and len(r.recipe.steps) == 2]
    assert sampled  # a trial without parameters does not stop the sampler
    run_worker(replace(one, budget=Budget(count=13)), "again")
    rows = [r for r in outcome(one).rows if r.hand_made]
    assert len(rows) == 3  # queued once
    assert "77" in str(next(r.error for r in rows if r.recipe == impossible))


def test_two_objectives_have_a_front(tmp_path: Path) -> None:
    one = work(
        tmp_path,
        kinds=("delete", "duplicate"),
        second="size",
        sampler="nsga2",
        setup=replace(SETUP, n_windows=1),
    )
    run_worker(one, "run")
    found = outcome(one)
    sizes = {r.values[1] for r in found.ranked}
    assert len(sizes) >= 2 and found.front
    for a in found.front:
        for b in found.ranked:
            assert not (b.values[0] < a.values[0] and b.values[1] < a.values[1])


def test_pareto() -> None:
    def row(n: int, *values: float) -> Row:
        from ggsurgery.plan.recipe import Recipe

        return Row(n, Recipe(()), str(n), values, None, (), None)

    rows = [row(0, 1, 9), row(1, 2, 5), row(2, 3, 6), row(3, 4, 1)]
    assert [r.number for r in pareto(rows, (1, 1))] == [0, 1, 3]
    assert [r.number for r in pareto(rows, (1, -1))] == [0]


def test_another_source_or_text_cannot_join(tmp_path: Path) -> None:
    one = work(tmp_path, budget=Budget(count=1))
    run_worker(one, "run")
    other = replace(one, setup=replace(SETUP, text=REPORT_TEXT), journal=tmp_path / "2.jsonl")
    with pytest.raises(GGSurgeryError, match="about another text"):
        run_worker(other, "run")
    copy = tmp_path / "copy.gguf"
    data = bytearray(MODEL.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    other = replace(one, setup=replace(SETUP, path=copy), journal=tmp_path / "3.jsonl")
    with pytest.raises(GGSurgeryError, match="about another source file"):
        run_worker(other, "run")


def test_a_budget_too_small_says_what_one_candidate_costs(tmp_path: Path) -> None:
    with pytest.raises(GGSurgeryError, match=r"too small for one candidate: expected at least"):
        run_worker(work(tmp_path, budget=Budget(seconds=1e-4)), "run")
    with pytest.raises(GGSurgeryError, match="1 configuration or more"):
        run_worker(work(tmp_path, budget=Budget(count=0)), "run")
    assert parse_budget("2h") == Budget(seconds=7200) and parse_budget("200") == Budget(count=200)


def test_time_that_was_spent_counts(tmp_path: Path) -> None:
    """A child that takes over from a crashed one has what is left, not all over again."""
    one = work(tmp_path, budget=Budget(seconds=1000))
    run_worker(one, "run", 1001)
    assert outcome(one).tried == 0
    for endless in ("nans", "infh", "1e999m"):
        with pytest.raises(RequestError):
            parse_budget(endless)


def test_the_price_of_a_candidate_where_the_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Measurer.measure
    first = Recipe((step("delete", layer="0"),)).apply(Plan.identity(N_LAYERS))

    def strict(self: Measurer, plan: Plan, progress: Any = None) -> Any:
        if plan == first:
            raise ArchitectureError("layer 0 stays")
        return real(self, plan, progress)

    monkeypatch.setattr(Measurer, "measure", strict)
    one = work(tmp_path, budget=Budget(seconds=1000), setup=replace(SETUP, n_windows=1))
    run_worker(one, "run")
    found = outcome(one)
    assert found.tried == N_LAYERS and [r.error for r in found.rows if r.error] == ["layer 0 stays"]


def test_a_grid_that_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(
        GGSurgeryError, match=r"grid .* too large: expected 100,000 .* found 18,000,000"
    ):
        run_worker(work(tmp_path, kinds=("delete", "swap"), max_ops=3, sampler="grid"), "run")


def test_a_study_whose_maker_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker queues what is missing."""
    monkeypatch.setattr(studies, "SET_UP", 0.3)
    one = work(tmp_path, setup=replace(SETUP, n_windows=1))
    real, calls = studies.Space.singles, []

    def stopped(self: Space) -> Any:
        for number, point in enumerate(real(self)):
            if number == 3 and len(calls) == 1:  # the first call counts what the rules allow
                raise KeyboardInterrupt
            yield point
        calls.append(1)

    monkeypatch.setattr(studies.Space, "singles", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_worker(one, "run")
    calls.append(1)
    run_worker(one, "again")
    found = outcome(one)
    assert found.tried == N_LAYERS == len(storages_trials(one))


def storages_trials(one: Work) -> list[Any]:
    storage = storages.open_storage(one.storage, 60)
    found: list[Any] = storages.optuna().load_study(study_name=one.name, storage=storage).trials
    return found


def test_a_study_of_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "SET_UP", 0.3)
    one = work(tmp_path)
    storages.optuna().create_study(
        study_name=one.name, storage=storages.open_storage(one.storage, 60)
    )
    with pytest.raises(GGSurgeryError, match="not one of `ggsurgery search`"):
        run_worker(one, "run")


@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_a_lost_candidate_is_queued_at_once(
    end: signal.Signals | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its process crashed or Ctrl-C stopped it, nobody waits for its heartbeat."""
    one = work(tmp_path, setup=replace(SETUP, n_windows=1), heartbeat=600)
    ends = [end]

    def child(function: Any, work: Work, run: str, spent: float, **more: Any) -> None:
        if not ends:
            run_worker(work, run, spent)
            return
        real = Measurer.measure

        def dies(self: Measurer, plan: Plan, progress: Any = None) -> Any:
            if len(Journal(work.journal, {}).results) == 3:
                raise SystemExit
            return real(self, plan, progress)

        with monkeypatch.context() as patch:
            patch.setattr(Measurer, "measure", dies)
            with pytest.raises(SystemExit):
                run_worker(work, run, spent)
        assert storages_trials(work)[3].state.name == "RUNNING"
        if ends.pop() is None:
            raise KeyboardInterrupt
        raise EngineError("llama.cpp crashed (SIGKILL)")

    monkeypatch.setattr(runs.worker, "run", child)
    begin = time.monotonic()
    if end is None:
        with pytest.raises(KeyboardInterrupt):
            search(one)
    found = search(one)
    assert time.monotonic() - begin < 60
    assert found.tried == N_LAYERS
    crashes = [r.error for r in found.rows if r.error]
    assert crashes == ([] if end is None else ["llama.cpp crashed (SIGKILL)"])


def test_no_room_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = work(tmp_path, setup=replace(SETUP, n_windows=1))
    real, calls = Measurer.measure, []

    def full(self: Measurer, plan: Plan, progress: Any = None) -> Any:
        calls.append(plan)
        if len(calls) == 3:
            raise OutputError("the disk ran full while writing")
        return real(self, plan, progress)

    monkeypatch.setattr(Measurer, "measure", full)
    monkeypatch.setattr(dead_workers, "MOMENT", 0.1)
    with pytest.raises(OutputError, match="ran full"):
        run_worker(one, "run")
    run_worker(one, "again")
    found = outcome(one)
    assert found.tried == N_LAYERS == len(found.ranked)


def test_another_worker_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite lets two workers take one candidate; the second finds its trial told already."""
    one = work(tmp_path, setup=replace(SETUP, n_windows=1))
    real, calls = Measurer.measure, []

    def slow(self: Measurer, plan: Plan, progress: Any = None) -> Any:
        calls.append(plan)
        if len(calls) == 3:
            other = storages.open_storage(one.storage, 60)
            study = storages.optuna().load_study(study_name=one.name, storage=other)
            running = next(t for t in study.trials if t.state.name == "RUNNING")
            study.tell(running.number, 1.0)
        return real(self, plan, progress)

    monkeypatch.setattr(Measurer, "measure", slow)
    run_worker(one, "run")
    assert outcome(one).tried == N_LAYERS == len(calls)


def test_halving_needs_windows(tmp_path: Path) -> None:
    setup = replace(SETUP, metric="kl", n_windows=2)
    with pytest.raises(GGSurgeryError, match="halving works with"):
        run_worker(work(tmp_path, setup=setup, halving=True), "run")


def test_a_storage_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = storages.optuna()
    monkeypatch.setattr(storages, "PAUSES", (0.0, 0.0))
    calls = []

    def comes_back() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise optuna.exceptions.StorageInternalError("no answer")
        return "fine"

    assert storages.patiently(comes_back, "x.db", lambda: 0) == "fine"

    def gone() -> None:
        raise ConnectionError("server closed the connection")

    with pytest.raises(GGSurgeryError, match=r"went away.*All 7 results .* are kept"):
        storages.patiently(gone, "postgresql://me:secret@db/x", lambda: 7)
    assert storages.shown("postgresql://me:secret@db/x") == "postgresql://me@db/x"
    with pytest.raises(GGSurgeryError, match="cannot be opened"):
        storages.open_storage("postgresql://me@127.0.0.1:9/none", 60)


def test_search_and_reporting_sets_are_disjoint(tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(SEARCH_TEXT.read_bytes())
    with pytest.raises(GGSurgeryError, match="reporting set is the search set"):
        check_disjoint(SETUP, replace(SETUP, text=copy))
    check_disjoint(SETUP, replace(SETUP, text=REPORT_TEXT))
    mixed = tmp_path / "mixed.txt"  # a paragraph of the one, broken in other lines, in the other
    words = SEARCH_TEXT.read_text().split()
    mixed.write_text(REPORT_TEXT.read_text() + "\n".join(words[len(words) // 2 :]))
    with pytest.raises(GGSurgeryError, match=r"overlaps the search set: expected no passage"):
        check_disjoint(SETUP, replace(SETUP, text=mixed))


def test_questions_asked_twice_are_no_reporting_set(tmp_path: Path) -> None:
    def questions(name: str, numbers: range) -> Setup:
        path = tmp_path / name
        rows = [
            {"id": f"{name}-{i}", "query": f"{i}?", "choices": ["a", "b"], "answer": 0}
            for i in numbers
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return replace(SETUP, metric=f"choices:{path}", text=None)

    ours = questions("a.jsonl", range(10))
    check_disjoint(ours, questions("b.jsonl", range(10, 20)))
    with pytest.raises(GGSurgeryError, match=r"overlaps .* 2 of them, such as .8\?"):
        check_disjoint(ours, questions("c.jsonl", range(8, 15)))


def test_command_reports_winner_and_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGSURGERY_CACHE", str(tmp_path / "cache"))
    arguments = [
        "search",
        str(MODEL),
        "--study",
        "s",
        "--space",
        "delete",
        "--budget",
        "50",
        "--text",
        str(SEARCH_TEXT),
        "--report-text",
        str(REPORT_TEXT),
        "--ctx",
        "64",
        "--windows",
        "4",
        "--threads",
        "1",
        "--storage",
        str(tmp_path / "s.db"),
        "--recipes",
        str(tmp_path / "recipes"),
    ]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert facts["tried"] == N_LAYERS == facts["report"]["configurations_tried"]
    names = [c["name"] for c in facts["report"]["controls"]]
    assert any("random" in n for n in names) and any("last layers" in n for n in names)
    assert any("uncut" in n for n in names)
    cut = facts["report"]["winner"]["operation"].removeprefix("delete ")
    assert f"random {cut}" not in names  # the winner is no control of itself
    assert all(c["error"] is None for c in facts["report"]["controls"])
    differences = {c["name"]: c["difference_to_winner"] for c in facts["report"]["controls"]}
    beaten = {n for n, d in differences.items() if d["value"] > 0 and d["p_corrected"] < 0.05}
    for d in differences.values():
        assert d["p_value"] <= d["p_corrected"] <= min(1, len(differences) * d["p_value"])
    assert set(facts["report"]["unbeaten_controls"]) == set(differences) - beaten
    recipes = sorted((tmp_path / "recipes").iterdir())
    out = tmp_path / "best.gguf"
    applied = CliRunner().invoke(cli, ["apply", str(recipes[0]), str(MODEL), str(out)])
    assert applied.exit_code == 0 and out.exists(), applied.output
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "on the reporting set" in result.stdout and "10 configurations tried" in result.stderr
    unbeaten = "; ".join(facts["report"]["unbeaten_controls"])
    assert unbeaten and f"(paired t, p < 0.05 after Holm) than: {unbeaten}" in result.stderr


def test_reporting_sets_are_looked_at_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGSURGERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ggsurgery.jobs.search.search", lambda *a: pytest.fail("searched"))
    short = tmp_path / "short.txt"
    short.write_text("hello")
    arguments = [
        "search",
        str(MODEL),
        "--study",
        "s",
        "--text",
        str(SEARCH_TEXT),
        "--threads",
        "1",
        "--storage",
        str(tmp_path / "s.db"),
    ]
    for more, message in (
        (["--report-text", str(tmp_path / "none.txt")], "none.txt: cannot be read"),
        (["--report-text", str(short)], "too short"),
        (["--report-data", str(short)], "not JSON"),
        (["--report-text", str(SEARCH_TEXT)], "is the search set"),
        (["--report-text", str(short), "--report-data", str(short)], "--report-text or on"),
        (["--plot", str(tmp_path / "no" / "x.png")], "folder does not exist"),
        (["--recipes", str(short)], "not a folder"),
        (["--text", str(tmp_path / "none.txt")], "none.txt: cannot be read"),
    ):
        result = CliRunner().invoke(cli, [*arguments, *more])
        told = str(result.exception) + result.stderr
        assert result.exit_code and message in told, (more, told)


def test_what_the_winner_is_reported_on(tmp_path: Path) -> None:
    data = tmp_path / "q.jsonl"
    data.write_text('{"query": "import", "choices": [" sys", " zqj"], "answer": 0}\n')
    problems = tmp_path / "p.jsonl"
    problems.write_text('{"question": "1 + 1?", "final": "2"}\n')
    for metric, text, questions, expected in (
        ("perplexity", REPORT_TEXT, None, "perplexity"),
        ("kl", REPORT_TEXT, None, "kl"),
        ("suite", REPORT_TEXT, None, "perplexity"),
        ("perplexity", None, data, f"choices:{data}"),
        ("gsm8k:other.jsonl", None, problems, f"gsm8k:{problems}"),
    ):
        setup = replace(SETUP, metric=metric)
        assert reporting_setup(setup, text, questions).metric == expected


def test_a_verdict_names_what_it_could_not_measure(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(0, Recipe((step("delete", layer="1"),)), "d", (1.0,), None, (), None)
    good, worse = Score("choices", 0.5, 0.01, 9), Score("choices", 0.2, 0.01, 9)
    clear = Difference(-0.3, 0.01, 0.001, test="McNemar (exact)", n=9)
    beaten = Outcome(
        Control("random 3", "random layers", (3,)), None, worse, clear, "higher", 0.001
    )
    refused = Outcome(Control("Q8_0", "same bytes", (), "Q8_0"), refused="no room")
    controls = (beaten, refused)
    verdict = Verdict(row, good, good, Difference(0, 0.01), controls, 4, "higher", "choices:x")
    search_command._show_verdict(verdict)
    told = capsys.readouterr()
    assert "better than every control" in told.err and "could not be measured: Q8_0" in told.err
    assert "choices" in told.out and "log ratio" not in told.out
    search_command._show_verdict(replace(verdict, controls=controls[1:]))
    assert "better than" not in capsys.readouterr().err
