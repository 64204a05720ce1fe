"""prune-depth: each way chooses what its own measurements say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ggsurgery.cli import cli
from ggsurgery.compensate.chain import Chain
from ggsurgery.compensate.settings import Settings
from ggsurgery.errors import ArchitectureError, OutputError, PlanError
from ggsurgery.files.text import read_corpus
from ggsurgery.find import by_healed
from ggsurgery.find.prune_depth import By, choose, how_many, measure_influence
from ggsurgery.find.scan import scan
from ggsurgery.ggufio.header import read_header
from ggsurgery.measure.metrics.perplexity import perplexity_of_file
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.variants import Candidates
from ggsurgery.measure.variants.measure import Measurer
from ggsurgery.plan.heal import places
from ggsurgery.plan.ops import delete
from ggsurgery.plan.types import BlockRef, Plan, Take
from ggsurgery.surgery.prepare import prepare
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT

pytestmark = pytest.mark.slow

SETUP = Setup(MODEL, text=SEARCH_TEXT, n_ctx=64, n_windows=3, n_threads=1)


def test_how_many() -> None:
    assert how_many(30, None, 0.25) == 8 and how_many(10, 3, None) == 3
    for layers, share in ((None, None), (2, 0.2), (0, None), (10, None), (None, 0.01)):
        with pytest.raises(PlanError):
            how_many(10, layers, share)
    with pytest.raises(PlanError, match="impossible share"):
        how_many(10, None, float("nan"))
    with pytest.raises(PlanError, match="cannot be cut"):
        how_many(1, 1, None)


def test_by_influence_and_angular() -> None:
    found = measure_influence(SETUP)
    assert choose(SETUP, "influence", 3).layers == tuple(found.ranked()[:3])
    span = choose(SETUP, "angular", 3).layers
    assert span == tuple(range(span[0], span[0] + 3))
    assert span[0] == found.spans(3)[0][0]


@pytest.mark.parametrize("by", ["influence", "angular", "scan", "greedy"])
def test_kept_layers_stay_and_the_cut_is_measured(by: By, tmp_path: Path) -> None:
    """Every way leaves them, and says what the whole cut costs on the same windows."""
    free = choose(SETUP, by, 2)
    kept = choose(SETUP, by, 2, keep=free.layers[:1])
    assert free.layers[0] not in kept.layers and len(set(kept.layers)) == 2
    out = tmp_path / "cut.gguf"
    with prepare(kept.recipe, [MODEL]) as operation:
        operation.write(out)
    text = read_corpus(SEARCH_TEXT)
    for path, value in ((MODEL, kept.before), (out, kept.after)):
        file = perplexity_of_file(path, text, n_ctx=64, n_chunks=3, n_threads=1)
        assert value == pytest.approx(file.value, rel=1e-4)


def test_the_cost_is_tested_for_all_cuts_that_were_measured() -> None:
    """Student's t test and Holm's rule, written out here."""
    with Measurer(SETUP) as measurer:
        base = measurer.base
        cuts = [measurer.measure(delete(measurer.session.identity, [i])) for i in range(N_LAYERS)]
    p_values = []
    for cut in cuts:
        d = np.subtract(cut.items, base.items)
        t = abs(d.mean() / (d.std(ddof=1) / np.sqrt(3)))
        p_values.append(1 - t / np.sqrt(2 + t * t))  # Student's with two degrees of freedom
    ranked = sorted(range(N_LAYERS), key=lambda i: p_values[i])
    holm, highest = {}, 0.0
    for place, i in enumerate(ranked):
        highest = max(highest, min(1.0, (N_LAYERS - place) * p_values[i]))
        holm[i] = highest
    found = choose(SETUP, "scan", 1)
    (layer,) = found.layers
    assert found.cost.n_candidates == N_LAYERS and found.cost.difference.test == "paired t"
    assert found.cost.difference.p_value == pytest.approx(p_values[layer], rel=1e-3)
    assert found.cost.p_corrected == pytest.approx(holm[layer], rel=1e-3)
    assert np.exp(found.cost.difference.value) == pytest.approx(found.after / found.before)
    one = choose(SETUP, "influence", 2)
    assert one.cost.n_candidates == 1 and one.cost.p_corrected == one.cost.difference.p_value


def test_too_many_kept() -> None:
    for keep, message in ((range(N_LAYERS - 1), "too many"), ([N_LAYERS], "does not exist")):
        with pytest.raises(PlanError, match=message):
            choose(SETUP, "influence", 2, keep=keep)
    with pytest.raises(PlanError, match="no span of 3"):
        choose(SETUP, "angular", 3, keep=range(0, N_LAYERS, 3))


def test_angular_at_all_tokens() -> None:
    found = measure_influence(SETUP, tokens="all")
    assert choose(SETUP, "angular", 3, tokens="all").layers[0] == found.spans(3)[0][0]


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
    arguments = [
        "prune-depth",
        str(MODEL),
        str(out),
        "--share",
        "0.2",
        "--by",
        "greedy",
        "--text",
        str(SEARCH_TEXT),
        "--ctx",
        "64",
        "--windows",
        "3",
        "--threads",
        "1",
    ]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert facts["layers"] == [N_LAYERS, N_LAYERS - 2] == [N_LAYERS, read_header(out).n_layers]
    text = read_corpus(SEARCH_TEXT)
    file = perplexity_of_file(out, text, n_ctx=64, n_chunks=3, n_threads=1)
    assert facts["choice"]["rounds"][-1]["score"] == pytest.approx(file.value, rel=1e-4)
    # an output in the way is refused before anything is measured
    text_gone = ["--text", str(tmp_path / "none.txt")]
    result = CliRunner().invoke(cli, [*arguments[:3], "--layers", "2", *text_gone])
    assert isinstance(result.exception, OutputError) and "exists" in str(result.exception)
    out.unlink()
    result = CliRunner().invoke(cli, [*arguments[:3], "--layers", "10"])
    assert isinstance(result.exception, PlanError)


def test_a_cut_that_leaves_nothing_usable_is_called_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli,
        [
            "prune-depth",
            str(MODEL),
            str(tmp_path / "cut.gguf"),
            "--layers",
            str(N_LAYERS - 1),
            "--by",
            "influence",
            "--text",
            str(SEARCH_TEXT),
            "--ctx",
            "64",
            "--windows",
            "2",
            "--threads",
            "1",
        ],
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert "uncut" in result.stdout and "not usable without further training" in result.stderr


def test_missing_text() -> None:
    with pytest.raises(Exception, match="--text"):
        choose(replace(SETUP, text=None), "influence", 2)


@pytest.mark.parametrize("by", ["scan", "greedy"])
def test_a_refused_candidate_is_not_chosen(by: By, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where layers must stay in phase, some cuts are refused: the others are still measured."""
    setup = replace(SETUP, n_windows=1)
    first = choose(setup, by, 1).layers[0]
    real = Measurer.measure

    def strict(self: Measurer, plan: Plan, progress: Any = None) -> Any:
        if Take(BlockRef(0, first)) not in plan.blocks or not allowed:
            raise ArchitectureError("layers stay in fours")
        return real(self, plan, progress)

    allowed = True
    monkeypatch.setattr(Measurer, "measure", strict)
    assert first not in choose(setup, by, 2).layers
    allowed = False
    with pytest.raises(ArchitectureError, match=r"too few layers may go.*layers stay in fours"):
        choose(setup, by, 2)


@pytest.mark.parametrize(
    "cuts", ([(i,) for i in range(1, N_LAYERS) if i != 8], [(4, 5), (5, 6), (6, 7)])
)
def test_by_healed_ranks_by_what_is_left_after_a_refit(cuts, monkeypatch) -> None:
    """The first round and the spans against a file of each; kept layers and layer 0 stay."""
    setup = replace(SETUP, n_ctx=128, n_windows=12)
    rounds: list[by_healed._Candidate] = []
    run = by_healed._Race.run

    def recorded(self: by_healed._Race, base: Plan, cuts: list[tuple[int, ...]]) -> object:
        rounds.append(run(self, base, cuts))
        return rounds[-1]

    monkeypatch.setattr(by_healed._Race, "run", recorded)
    found = choose(setup, "healed", 2, keep=[1, 2, 3, 8, 9] if len(cuts[0]) == 2 else [8])
    span, first, second = rounds
    assert len(set(found.layers)) == 2 and not {0, 8} & set(found.layers)
    best = min((span, second), key=lambda one: one.perplexity)
    assert found.after == best.perplexity
    assert found.layers == (span.layers if best is span else (*first.layers, *second.layers))
    bare = choose(setup, "greedy", 2, keep=[0, 8])
    assert found.before != bare.before  # ranked on the last quarter of the windows
    assert np.exp(found.cost.difference.value) == pytest.approx(found.after / found.before)
    if len(cuts[0]) == 1:
        assert found.cost.n_candidates == 6 + 8 + 7  # spans without 0 and 8, two rounds
    windows = setup.windows()
    text_of_rank = windows.part(range(9, 12))
    fitted = windows.part(range(9))
    arrays: dict[str, np.ndarray] = {}  # type: ignore[type-arg]
    with (
        Candidates(MODEL, fitted, cache_bytes=0, given=arrays, n_threads=1) as fit,
        Candidates(MODEL, text_of_rank, given=arrays, n_threads=1) as rank,
    ):
        figures = {}
        for cut in cuts:
            plan = delete(fit.identity, cut)
            chain = Chain(fit, plan, range(N_LAYERS), 9, Settings("refit", ridge=1e-2))
            (place,) = [p for p in places(plan, N_LAYERS) if p.seam]
            chain.start(place)
            chain.fit(place)
            figures[cut] = float(np.exp(np.mean(rank.nll(chain.at.plan))))
    winner = first if len(cuts[0]) == 1 else span
    assert winner.layers == min(figures, key=lambda cut: figures[cut])
    assert winner.perplexity == pytest.approx(figures[winner.layers], rel=1e-3)


def test_by_healed_needs_perplexity_and_two_windows() -> None:
    with pytest.raises(PlanError, match="ranks by perplexity"):
        choose(replace(SETUP, metric="kl"), "healed", 1)
    with pytest.raises(PlanError, match="fit and to rank"):
        choose(replace(SETUP, n_windows=1), "healed", 1)
    with pytest.raises(PlanError, match="layer 0 cannot be healed"):
        choose(SETUP, "healed", 3, keep=range(3, N_LAYERS))
