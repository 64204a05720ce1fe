"""`search --heal`: candidates ranked by what is left after a quick refit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggsurgery.errors import RequestError
from ggsurgery.find.by_healed import choose_by_healed
from ggsurgery.jobs.search import SearchRequest
from ggsurgery.measure.setup import Setup
from tests._needs import needs_package
from tests._tiny import MODEL, N_LAYERS, REPORT_TEXT, SEARCH_TEXT

pytestmark = pytest.mark.slow


def test_the_figures_are_those_of_prune_depth(tmp_path: Path) -> None:
    needs_package("optuna", extra="search")
    request = SearchRequest(
        file=MODEL,
        study="healed",
        text=SEARCH_TEXT,
        ctx=128,
        windows=8,
        space=["delete"],
        storage=str(tmp_path / "s.db"),
        report_text=REPORT_TEXT,
        threads=1,
        heal=True,
    )
    found = request.run()
    rows = {row.recipe.describe(): row for row in found.outcome.ranked}
    setup = Setup(MODEL, text=SEARCH_TEXT, n_ctx=128, n_windows=8, n_threads=1)
    (first, value), *_ = choose_by_healed(setup, 1).rounds
    assert rows[f"delete {first}"].values[0] == pytest.approx(value, rel=1e-5)
    assert all(row.values[0] >= value * (1 - 1e-5) for row in rows.values() if row.digest)
    assert {len(row.items) for row in rows.values()} == {2}  # the last quarter
    # a bare cut is written, which `heal --recipe` takes
    assert all(s.operation == "delete" for row in rows.values() for s in row.recipe.steps)
    assert len(rows) == N_LAYERS and found.document["settings"]["healed"] is True
    verdict = found.verdict
    assert verdict is not None and verdict.measured.n == len(verdict.measured.items)
    json.dumps(found.document)


def test_a_study_of_bare_candidates_is_another(tmp_path: Path) -> None:
    setup = Setup(MODEL, text=SEARCH_TEXT)
    request = SearchRequest(file=MODEL, study="s", text=SEARCH_TEXT, heal=True)
    assert "healed" not in setup.facts() and request.setup("perplexity").facts()["healed"] is True
    with pytest.raises(RequestError, match="`heal` ranks by perplexity"):
        SearchRequest(file=MODEL, study="s", text=SEARCH_TEXT, heal=True, objective="kl")
    with pytest.raises(RequestError, match="`report_text`"):
        SearchRequest(file=MODEL, study="s", text=SEARCH_TEXT, heal=True, report_data=SEARCH_TEXT)
