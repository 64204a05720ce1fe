"""prune-depth: each way chooses what its own measurements say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggsurgery.analyze.scan import scan
from ggsurgery.candidates.measure import Setup
from ggsurgery.cli import cli
from ggsurgery.errors import PlanError
from ggsurgery.evaluate.perplexity import perplexity_of_file, read_text
from ggsurgery.ggufio.header import read_header
from ggsurgery.prune_depth import choose, how_many, measure_influence
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT

SETUP = Setup(MODEL, text=SEARCH_TEXT, n_ctx=64, n_windows=3, n_threads=1)


def test_how_many() -> None:
    assert how_many(30, None, 0.25) == 8 and how_many(10, 3, None) == 3
    for layers, share in ((None, None), (2, 0.2), (0, None), (10, None), (None, 0.01)):
        with pytest.raises(PlanError):
            how_many(10, layers, share)


def test_by_influence_and_angular() -> None:
    found = measure_influence(SETUP)
    assert choose(SETUP, "influence", 3).layers == tuple(found.ranked()[:3])
    span = choose(SETUP, "angular", 3).layers
    assert span == tuple(range(span[0], span[0] + 3))
    assert span[0] == found.spans(3)[0][0]


def test_by_scan_is_the_scans_ranking(tmp_path: Path) -> None:
    found = scan(SETUP, "delete", tmp_path / "s.jsonl").ranked()
    assert [step.describe() for t in found[:2] for step in t.recipe.steps] == [
        f"delete {layer}" for layer in choose(SETUP, "scan", 2).layers
    ]


def test_greedy_measures_again_and_resumes(tmp_path: Path) -> None:
    journal = tmp_path / "greedy.jsonl"
    calls: list[tuple[int, int]] = []
    choice = choose(SETUP, "greedy", 2, journal, progress=lambda a, b: calls.append((a, b)))
    assert calls[-1] == (N_LAYERS + N_LAYERS - 1,) * 2
    entries = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    pairs = {tuple(e["cut"]): e["value"] for e in entries if len(e["cut"]) == 2}
    first = min((e for e in entries if len(e["cut"]) == 1), key=lambda e: e["value"])["cut"][0]
    assert choice.layers[0] == first
    assert tuple(sorted(choice.layers)) == min(pairs, key=lambda cut: pairs[cut])
    size = journal.stat().st_size
    assert choose(SETUP, "greedy", 2, journal) == choice and journal.stat().st_size == size


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "cut.gguf"
    arguments = ["prune-depth", str(MODEL), str(out), "--share", "0.2", "--by", "greedy", "--text",
                 str(SEARCH_TEXT), "--ctx", "64", "--windows", "3", "--threads", "1"]  # fmt: skip
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert facts["layers"] == [N_LAYERS, N_LAYERS - 2] == [N_LAYERS, read_header(out).n_layers]
    text = read_text(SEARCH_TEXT)
    file = perplexity_of_file(out, text, n_ctx=64, n_chunks=3, n_threads=1)
    assert facts["choice"]["rounds"][-1]["score"] == pytest.approx(file.value, rel=1e-4)
    result = CliRunner().invoke(cli, [*arguments[:3], "--layers", "10"])
    assert isinstance(result.exception, PlanError)


def test_missing_text() -> None:
    with pytest.raises(Exception, match="--text"):
        choose(replace(SETUP, text=None), "influence", 2)
