"""What each step won back: paired differences against numpy, the document, the card's section."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ggsurgery.errors import FormatError
from ggsurgery.find.figures import figures_of
from ggsurgery.measure.results.recovery import Recovery, read_recovery, recovery_of
from ggsurgery.measure.results.score import Score
from ggsurgery.release.sections import won_back

N = 40
RANDOM = np.random.default_rng(3)
UNCUT = RANDOM.normal(3.0, 0.4, N)


def score(above: float, name: str, spread: float = 0.05) -> Score:
    items = UNCUT + RANDOM.normal(above, spread, N)
    facts = {"file": f"models/{name}.gguf", "bytes": 1 << 20}
    return Score("perplexity", float(np.exp(items.mean())), 0.5, 1000, facts, tuple(items))


def interval(differences: np.ndarray) -> tuple[float, float]:  # type: ignore[type-arg]
    error = stats.sem(differences)
    return stats.t.interval(0.95, N - 1, differences.mean(), error)  # type: ignore[no-any-return]


def test_steps_are_paired_window_by_window(tmp_path: Path) -> None:
    steps = [(n, score(a, n)) for n, a in (("uncut", 0.0), ("bare", 1.0), ("healed", 0.4))]
    last = ("distilled", score(0.15, "distilled"))
    found = recovery_of([*steps, last], ("Q5_K_M", score(0.05, "control")))
    uncut, bare, healed, distilled, control = found.rungs
    assert uncut.above is None and bare.won is None and uncut.won is None
    items = {
        r.name: np.array(s.items) for r, (_, s) in zip(found.rungs, [*steps, last], strict=False)
    }
    for rung, before in ((healed, "bare"), (distilled, "healed")):
        won = items[before] - items[rung.name]
        assert rung.won is not None and rung.won.interval is not None
        assert rung.won.value == pytest.approx(won.mean())
        assert (rung.won.interval.low, rung.won.interval.high) == pytest.approx(interval(won))
        lost = (items["bare"] - items["uncut"]).mean()
        assert found.share(rung) == pytest.approx(won.mean() / lost)
    assert control.won is not None and control.won.value > 0 and found.share(control) is None
    assert found.verdict is not None and "(Q5_K_M) predicts this text better" in found.verdict
    text = "\n".join(won_back(found))
    assert "| distilled | 1.0 MiB |" in text and found.verdict in text and won_back(None) == []
    path = tmp_path / "recovery.json"
    path.write_text(json.dumps(found.to_json()))
    assert read_recovery(path) == found
    (figure,) = figures_of(json.loads(path.read_text())) or ()
    assert [p.label for p in figure.points] == ["uncut", "bare", "healed", "distilled"]
    assert [level.y for level in figure.levels] == [control.perplexity]


def test_a_control_that_cannot_be_told_apart() -> None:
    steps = [("uncut", score(0.0, "uncut")), ("bare", score(1.0, "bare"))]
    same = steps[1][1]
    noise = RANDOM.normal(0, 0.05, N)
    items = tuple(np.array(same.items) + noise - noise.mean())
    control = Score("perplexity", same.value, 0.5, 1000, same.provenance, items)
    verdict = recovery_of(steps, ("Q8_0", control)).verdict
    assert verdict is not None and "does not differ significantly" in verdict
    assert recovery_of(steps).verdict is None


def test_a_damaged_document_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recovery.json"
    path.write_text(json.dumps({"ggsurgery": "recovery", "steps": [{"name": "uncut"}]}))
    with pytest.raises(FormatError, match=r"recovery\.json: .*steps\[0\]\.what"):
        read_recovery(path)
    assert Recovery(()).verdict is None
