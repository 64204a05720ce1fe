"""Scans on the trained tiny model: figures, resuming, crashes, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ggsurgery.cli import cli
from ggsurgery.errors import FormatError, GGSurgeryError, OutputError, PlanError
from ggsurgery.files.text import read_corpus
from ggsurgery.find.scan import Scan, scan
from ggsurgery.ggufio import header as header_reader
from ggsurgery.ggufio.reader import Source
from ggsurgery.ggufio.types import Header
from ggsurgery.measure.metrics.perplexity import perplexity_of_file
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.variants import batch as scan_worker
from ggsurgery.measure.variants.measure import Measurer
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.plan.types import Plan
from ggsurgery.runtime.engine import Engine
from ggsurgery.runtime.vocab_only import VocabularyFile
from ggsurgery.surgery.prepare import prepare
from tests._command import call
from tests._tiny import MODEL, N_LAYERS, REPORT_TEXT, SEARCH_TEXT

pytestmark = pytest.mark.slow

SETUP = Setup(MODEL, text=SEARCH_TEXT, n_ctx=64, n_windows=4, n_threads=1)


@pytest.fixture(scope="module")
def deletions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scan, Path]:
    journal = tmp_path_factory.mktemp("scan") / "journal.jsonl"
    return scan(SETUP, "delete", journal), journal


def test_figures_are_those_of_the_written_files(
    deletions: tuple[Scan, Path], tmp_path: Path
) -> None:
    found, _ = deletions
    text = read_corpus(SEARCH_TEXT)
    base = perplexity_of_file(MODEL, text, n_ctx=64, n_chunks=4, n_threads=1)
    assert found.base.value == base.value and found.base.items == base.chunks  # to the last digit
    for layer in (0, 3, 9):
        out = tmp_path / f"{layer}.gguf"
        with prepare(Recipe((step("delete", layer=str(layer)),)), [MODEL]) as operation:
            operation.write(out)
        file = perplexity_of_file(out, text, n_ctx=64, n_chunks=4, n_threads=1)
        trial = found.trials[layer]
        assert trial.measured is not None and trial.difference is not None
        assert trial.measured.value == pytest.approx(file.value, rel=1e-4)
        assert trial.difference.value == pytest.approx(file.nll - base.nll, abs=1e-4)
        assert trial.measured.items == pytest.approx(file.chunks, rel=1e-4)


def test_a_scan_reads_the_header_three_times_and_tokenizes_without_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's warning, the parent and the child, however many layers there are."""
    read: list[Path] = []
    loaded: list[int] = []
    real, make = header_reader.read_shard, VocabularyFile.__init__

    def counted(path: Path) -> Header:
        read.append(path)
        return real(path)

    def vocabulary(self: VocabularyFile, path: Path) -> None:
        loaded.append(1)
        make(self, path)

    def here(function: Any, *args: Any, file: Any = None, **more: Any) -> Any:
        return function(*args, **more)

    monkeypatch.setattr(header_reader, "read_shard", counted)
    monkeypatch.setattr(VocabularyFile, "__init__", vocabulary)
    monkeypatch.setattr(scan_worker.worker, "run", here)
    opened: list[Path] = []
    load = Engine.open.__func__  # type: ignore[attr-defined]

    def opening(cls: type[Engine], path: Path, **more: Any) -> Engine:
        opened.append(path)
        return load(cls, path, **more)  # type: ignore[no-any-return]

    monkeypatch.setattr(Engine, "open", classmethod(opening))
    options = ["--text", str(SEARCH_TEXT), "--ctx", "64", "--windows", "1", "--threads", "1"]
    done = CliRunner().invoke(cli, ["scan", str(MODEL), *options, "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["rows"]) == N_LAYERS
    assert read.count(MODEL) <= 3
    assert len(loaded) == 1 and MODEL not in opened  # only scratch files are loaded whole


def test_layers_matter_and_some_matter_more(deletions: tuple[Scan, Path]) -> None:
    """What makes the tiny model a model to test with."""
    found, _ = deletions
    losses = [t.difference.value for t in found.trials if t.difference]
    assert len(losses) == N_LAYERS
    assert sum(loss > 0 for loss in losses) >= 8
    assert max(losses) > 4 * sorted(losses)[N_LAYERS // 2] > 0
    assert found.ranked()[-1].difference.p_value < 0.05  # type: ignore[union-attr]


def test_a_scan_goes_on_where_it_stopped(
    deletions: tuple[Scan, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, journal = deletions
    lines = journal.read_text().splitlines(keepends=True)
    part = tmp_path / "part.jsonl"
    kept = [line for line in lines if '"started"' not in line][:6]  # subject, base, four results
    part.write_text("".join(kept))
    again = scan(SETUP, "delete", part)
    assert [t.measured for t in again.trials] == [t.measured for t in found.trials]
    added = [json.loads(line) for line in part.read_text().splitlines()[6:]]
    assert sum("digest" in entry for entry in added) == N_LAYERS - 4

    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(scan_worker.worker, "run", refuse)
    assert scan(SETUP, "delete", part).ranked()[0].recipe == found.ranked()[0].recipe


def test_a_journal_of_other_settings_is_refused(deletions: tuple[Scan, Path]) -> None:
    _, journal = deletions
    with pytest.raises(FormatError, match="another text"):
        scan(replace(SETUP, text=REPORT_TEXT), "delete", journal)


def test_a_journal_knows_its_text_by_content(tmp_path: Path) -> None:
    text, journal = tmp_path / "a.txt", tmp_path / "j.jsonl"
    text.write_bytes(SEARCH_TEXT.read_bytes())
    setup = replace(SETUP, text=text, n_windows=1)
    found = scan(setup, "prune", journal, shares=(50,))
    text = text.rename(tmp_path / "b.txt")
    assert scan(replace(setup, text=text), "prune", journal, shares=(50,)).trials == found.trials
    text.write_bytes(REPORT_TEXT.read_bytes())
    with pytest.raises(FormatError, match="another text"):
        scan(replace(setup, text=text), "prune", journal, shares=(50,))
    with pytest.raises(FormatError, match=r"none.txt: cannot be read"):
        scan(replace(setup, text=tmp_path / "none.txt"), "delete", tmp_path / "k.jsonl")


def test_only_what_ran_is_to_blame_for_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what an earlier process had begun when it was stopped."""
    monkeypatch.setenv("GGSURGERY_TEST_CRASH", "delete 5")
    recipes = [Recipe((step("delete", layer=str(i)),)) for i in (5, 6)]
    journal = tmp_path / "j.jsonl"
    scan_worker.measure_all(SETUP, [], journal)
    stopped = [scan_worker.key_of(Plan.identity(N_LAYERS), recipes[1]), "0" * 64]
    with journal.open("a") as file:
        for key in stopped:
            file.write(json.dumps({"started": key, "label": "delete 6"}) + "\n")
    monkeypatch.setattr(scan_worker, "_work", crashing_work)
    _, trials = scan_worker.measure_all(SETUP, recipes, journal)
    assert [t.error is None for t in trials] == [False, True]


def test_no_room_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Measurer, plan: Any, progress: Any = None) -> Any:
        raise OutputError("the disk ran full while writing")

    with Measurer(SETUP) as measurer:
        monkeypatch.setattr(Measurer, "measure", full)
        with pytest.raises(OutputError, match="ran full"):
            scan_worker.try_one(measurer, Recipe((step("delete", layer="3"),)), "key")


def test_what_is_no_number_ranks_last(deletions: tuple[Scan, Path]) -> None:
    found, _ = deletions
    trials = [
        replace(t, measured=Score("perplexity", float("nan"), None, 4)) for t in found.trials[:2]
    ]
    mixed = replace(found, trials=(trials[0], *found.trials[2:5], trials[1], *found.trials[5:]))
    values = [t.measured.value for t in mixed.ranked() if t.measured]
    assert values[:-2] == sorted(values[:-2]) and np.isnan(values[-2:]).all()


def test_a_crash_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGSURGERY_TEST_CRASH", "delete 5")
    recipes = [Recipe((step("delete", layer=str(i)),)) for i in (4, 5, 6)]
    monkeypatch.setattr(scan_worker, "_work", crashing_work)
    base, trials = scan_worker.measure_all(SETUP, recipes, tmp_path / "j.jsonl")
    assert base.value > 1
    assert [t.error is None for t in trials] == [True, False, True]
    assert "SIGKILL" in str(trials[1].error) and trials[1].measured is None


def crashing_work(*args: Any, **more: Any) -> None:
    """The real work, with a process that dies on the candidate that the environment names."""
    real = Measurer.measure

    def measure(self: Measurer, plan: Any, progress: Any = None) -> Any:
        doomed = Recipe((step("delete", layer=os.environ["GGSURGERY_TEST_CRASH"].split()[1]),))
        if plan == doomed.apply(self.session.identity):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, plan, progress)

    Measurer.measure = measure  # type: ignore[method-assign]
    scan_worker_work(*args, **more)


scan_worker_work = scan_worker._work


def test_a_refused_candidate_is_a_row(tmp_path: Path) -> None:
    recipes = [Recipe((step("delete", layer="3"),)), Recipe((step("delete", layer="77"),))]
    _, trials = scan_worker.measure_all(SETUP, recipes, tmp_path / "j.jsonl")
    assert trials[0].error is None
    assert "77" in str(trials[1].error) and trials[1].measured is None


@pytest.mark.parametrize("operation", ["swap", "duplicate"])
def test_other_operations(operation: str, tmp_path: Path) -> None:
    found = scan(replace(SETUP, n_windows=2), operation, tmp_path / "j.jsonl", distance=2)
    assert len(found.trials) == (N_LAYERS - 2 if operation == "swap" else N_LAYERS)
    assert all(t.measured and np.isfinite(t.measured.value) for t in found.trials)


def test_pruning_more_hurts_more(tmp_path: Path) -> None:
    # two windows of 64 tokens are too few to tell 5 % from 40 %
    found = scan(replace(SETUP, n_windows=6), "prune", tmp_path / "j.jsonl", shares=(5, 40, 80))
    values = [t.measured.value for t in found.trials if t.measured]
    assert values == sorted(values) and values[2] > 1.2 * found.base.value
    assert found.positions == (5, 40, 80)


def test_kl_and_choices(tmp_path: Path) -> None:
    data = tmp_path / "questions.jsonl"
    rows = [
        {"id": str(i), "query": "import", "choices": [" sys", " zqj", " qqq"], "answer": i % 3}
        for i in range(6)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    two = [Recipe((step("swap", layers="0,1"),))]
    setup = replace(SETUP, metric="kl", n_windows=2)
    base, trials = scan_worker.measure_all(setup, two, tmp_path / "kl.jsonl")
    assert base.value == 0 and trials[0].measured is not None
    assert trials[0].measured.value > 0.001 and trials[0].measured.n == 2
    setup = replace(SETUP, metric=f"choices:{data}", text=None)
    base, trials = scan_worker.measure_all(setup, two, tmp_path / "c.jsonl")
    assert base.n == 6 and trials[0].measured is not None and trials[0].difference is not None
    assert 0 <= trials[0].measured.value <= 1
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "1 + 1?", "final": "2"}\n{"question": "?", "final": "x"}\n')
    setup = replace(SETUP, metric=f"gsm8k:{problems}", text=None)
    base, trials = scan_worker.measure_all(setup, two, tmp_path / "g.jsonl")
    assert base.n == 2 and trials[0].measured is not None
    assert base.items[1] == 0 and trials[0].measured.items[1] == 0  # nobody says x


def test_a_model_that_guesses_is_called_so(tmp_path: Path) -> None:
    """Its layers have nothing to lose, so their ranking means nothing."""
    choices = [f" {word}" for word in ("zqj", "qqq", "jjk", "xqz")]
    rows = [{"query": "q", "choices": choices, "answer": i % 4} for i in range(12)]
    (tmp_path / "guess.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["scan", str(MODEL), "--metric", f"choices:{tmp_path / 'guess.jsonl'}"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "guessing explains the uncut model's figure (chance 0.25)" in result.stderr
    assert "choices guess" in result.stdout
    assert json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)["guessing"] is True


@pytest.mark.parametrize(
    ("value", "stderr", "detail", "guessing"),
    [
        (0.30, 0.06, {"chance": 0.25}, True),
        (0.35, 0.06, {"chance": 0.25}, True),  # Wilson: [0.24, 0.48]
        (0.38, 0.06, {"chance": 0.25}, False),
        (0.0, None, {"chance": 0.0}, True),
        (0.2, 0.05, {"chance": 0.0}, False),
        (20.0, 1.0, {}, False),
    ],
)
def test_guessing_is_within_the_interval_of_chance(
    value: float, stderr: float | None, detail: dict[str, float], guessing: bool
) -> None:
    base = Score("choices", value, stderr, 60, detail)
    assert Scan("delete", "choices:x", False, base, (), ()).guessing is guessing


def test_wrong_metric_and_operation(tmp_path: Path) -> None:
    for metric in ("loss", "choices", "kl:x"):
        with pytest.raises(GGSurgeryError, match="unknown metric"):
            Measurer(replace(SETUP, metric=metric))
    with pytest.raises(GGSurgeryError, match="needs a text"):
        Measurer(replace(SETUP, text=None))
    with pytest.raises(PlanError, match="unknown operation"):
        scan(SETUP, "rotate", tmp_path / "j.jsonl")
    with pytest.raises(PlanError, match=f"so far apart: expected a --distance below {N_LAYERS}"):
        scan(SETUP, "swap", tmp_path / "j.jsonl", distance=N_LAYERS)


def test_command(deletions: tuple[Scan, Path], tmp_path: Path) -> None:
    _, journal = deletions
    arguments = [
        "scan",
        str(MODEL),
        "--text",
        str(SEARCH_TEXT),
        "--ctx",
        "64",
        "--windows",
        "4",
        "--threads",
        "1",
        "--journal",
        str(journal),
    ]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert len(document["rows"]) == N_LAYERS
    assert (document["ggsurgery"], document["version"]) == ("scan", 1)
    assert document["text"]["sha256"] == hashlib.sha256(SEARCH_TEXT.read_bytes()).hexdigest()
    assert document["model"]["checksum"].startswith("sampled-sha256:")
    settings = document["settings"]
    assert (settings["metric"], settings["n_ctx"], settings["n_windows"]) == ("perplexity", 64, 4)
    plot = tmp_path / "scan.svg"
    result = CliRunner().invoke(cli, [*arguments, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "delete 9" in result.stdout and "10 candidates were tried" in result.stderr
    assert "<svg" in plot.read_text()
    before = plot.read_bytes()
    result = CliRunner().invoke(cli, [*arguments, "--plot", str(plot)])
    assert "the output exists" in str(result.exception)
    assert plot.read_bytes() == before
    result = CliRunner().invoke(cli, [*arguments, "--plot", "scan.gif"])
    assert "cannot plot" in str(result.exception)
    result = CliRunner().invoke(cli, [*arguments, "--plot", str(tmp_path / "no" / "scan.svg")])
    assert "folder does not exist" in str(result.exception) and not result.stdout


@pytest.mark.parametrize("metric", ["perplexity", "kl"])
def test_a_model_that_gives_no_numbers_is_an_error(tmp_path: Path, metric: str) -> None:
    """Which layer it is, and exit code 1: nothing can be compared with it."""
    broken = tmp_path / "broken.gguf"
    data = bytearray(MODEL.read_bytes())
    with Source(MODEL) as source:
        at = source.position(source.header.by_name["blk.4.ffn_down.weight"])
    data[at : at + 64] = np.full(32, np.nan, np.float16).tobytes()
    broken.write_bytes(data)
    arguments = ["scan", str(broken), "--text", str(SEARCH_TEXT), "--ctx", "64", "--windows", "2"]
    said = call(*arguments, "--metric", metric, "--threads", "1", code=1)
    assert said.out == ""
    (line,) = (text for text in said.err.splitlines() if "error" in text)
    assert f"{broken}: window 1 of the uncut model: the model's logits are not numbers" in line
    assert "tensors blk.4.* is damaged" in line
