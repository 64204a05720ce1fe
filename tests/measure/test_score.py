"""A score survives JSON, its standard error is the field's, and broken files are refused."""

from __future__ import annotations

import json
import math
import statistics

import pytest

from ggsurgery.errors import FormatError
from ggsurgery.measure.results.score import Score, mean_score, provenance


def test_mean_score_matches_the_standard_library():
    items = [0.0, 1.0, 1.0, 0.5, 0.25]
    score = mean_score("acc", items)
    assert score.value == pytest.approx(statistics.fmean(items))
    assert score.stderr == pytest.approx(statistics.stdev(items) / math.sqrt(len(items)))
    assert score.n == 5


def test_json_round_trip_keeps_infinities():
    score = Score("perplexity", math.inf, None, 3, {"task": "wiki"}, (1.0, math.nan), ("a", "b"))
    again = Score.from_json(json.loads(json.dumps(score.to_json(), allow_nan=False)))
    assert again.value == math.inf
    assert math.isnan(again.items[1])
    assert (again.ids, again.label, again.lower_is_better) == (("a", "b"), "wiki perplexity", True)


def test_no_items_and_one_item_have_no_error():
    assert mean_score("acc", []).n == 0
    assert mean_score("acc", [1.0]).stderr is None


def test_a_broken_score_names_the_field():
    with pytest.raises(FormatError, match="field value: expected a number, found nothing"):
        Score.from_json({"metric": "acc", "n": 3})


def test_provenance_holds_size_settings_and_versions(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"12345")
    found = provenance(path, n_ctx=512, seed=None)
    assert (found["bytes"], found["n_ctx"]) == (5, 512)
    assert "seed" not in found
    assert found["versions"]["numpy"]
