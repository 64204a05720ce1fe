"""Controls are chosen as described, seeded, and the verdict says no more than the tests do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggsurgery.errors import ArchitectureError
from ggsurgery.ggufio.header import read_header
from ggsurgery.measure.controls import (
    Control,
    Outcome,
    building,
    choose_controls,
    corrected,
    measure_controls,
    verdict,
)
from ggsurgery.measure.results.comparison import paired
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.suite.result import Part, SurgeryScore
from tests._tiny import MODEL, N_LAYERS

SIZES = {"Q8_0": 85, "Q6_K": 66, "Q5_K_M": 57, "Q4_K_M": 48, "Q2_K": 30}


def score_of(right: int, n: int = 40) -> SurgeryScore:
    items = (1.0,) * right + (0.0,) * (n - right)
    return SurgeryScore((Part("facts", 40, items, ids=tuple(map(str, range(n)))),))


def names(**changes: object) -> list[str]:
    given: dict[str, object] = {
        "n_layers": 30,
        "n_removed": 3,
        "cut_bytes": 58,
        "sizes": SIZES,
        "base_bytes": 160,
    }
    return [c.name for c in choose_controls(**{**given, **changes})]  # type: ignore[arg-type]


def test_same_bytes_takes_the_largest_type_that_is_not_larger():
    assert names(n_removed=0) == ["Q5_K_M, uncut"]
    assert names(n_removed=0, cut_bytes=65) == ["Q5_K_M, uncut", "Q6_K, uncut"]  # 66 is close
    assert names(n_removed=0, cut_bytes=20) == ["Q2_K, uncut"]  # nothing fits: the smallest
    assert names(base_bytes=30)[0].startswith("random")  # nothing is smaller than the base


def test_what_saves_no_bytes_is_compared_with_the_uncut_model():
    assert names(n_removed=0, cut_bytes=160) == ["uncut", "Q8_0, uncut"]
    assert names(n_removed=-1, cut_bytes=170)[0] == "uncut"
    assert "uncut" not in names(n_removed=0, cut_bytes=58)  # quantized, too
    assert "uncut" not in names(n_removed=1, cut_bytes=155)


def test_layers_are_drawn_by_seed_and_never_the_cut_itself():
    found = choose_controls(4, 1, 58, {}, base_bytes=100, removed=(1,), seed=3)
    drawn = {c.layers for c in found if c.kind == "random layers"}
    assert drawn == {(0,), (3,)}  # 1 is the cut, 2 the control of the last layers: two are left
    assert found[-1] == Control("last layers 2", "last layers", (2,))
    assert names(seed=1) == names(seed=1)
    assert names(seed=1) != names(seed=2)
    assert names()[-1] == "last layers 26-28"
    for control in choose_controls(30, 3, 58, SIZES, base_bytes=160):
        assert len(control.layers) == len(set(control.layers)) in (0, 3)


def run(cut: SurgeryScore, scores: dict[str, SurgeryScore | str], folder: Path):
    controls = [Control(name, "random layers", (1,)) for name in scores]

    @contextmanager
    def built(control: Control) -> Iterator[Path]:
        if isinstance(scores[control.name], str):
            raise ArchitectureError(scores[control.name])
        path = folder / control.name
        path.write_bytes(b"1234")
        yield path

    return measure_controls(cut, controls, built, lambda path: scores[path.name])


def test_verdicts(tmp_path):
    cut = score_of(30)
    outcomes = run(cut, {"bad": score_of(5), "worse": score_of(2)}, tmp_path)
    assert verdict(cut, outcomes) == "Verdict: yes, the cut (75.0) beats 2 of 2 controls."
    outcomes = run(cut, {"bad": score_of(5), "near": score_of(29)}, tmp_path)
    assert verdict(cut, outcomes) == (
        "Verdict: not shown, the cut (75.0) is not distinguishable at n = 40 from near (72.5) "
        "and beats 1 of 2 controls."
    )
    outcomes = run(cut, {"good": score_of(39), "near": score_of(29)}, tmp_path)
    assert verdict(cut, outcomes) == (
        "Verdict: no, the cut (75.0) is beaten by good (97.5) and is not distinguishable at "
        "n = 40 from near (72.5)."
    )
    assert outcomes[0].bytes == 4


def test_a_control_that_cannot_be_built_is_a_row_not_the_end(tmp_path):
    cut = score_of(30)
    outcomes = run(cut, {"phase": "layers lose their phase", "bad": score_of(5)}, tmp_path)
    assert outcomes[0].verdict == "not built: layers lose their phase"
    assert verdict(cut, outcomes) == (
        "Verdict: yes, the cut (75.0) beats 1 of 1 controls (1 could not be built)."
    )
    alone = run(cut, {"phase": "layers lose their phase"}, tmp_path)
    assert "no control could be measured" in verdict(cut, alone)


def test_p_values_are_corrected_for_the_number_of_controls(tmp_path):
    cut = score_of(30)
    outcomes = run(cut, {str(i): score_of(25) for i in range(5)}, tmp_path)
    for outcome in corrected(outcomes):
        assert outcome.difference is not None and outcome.difference.p_value is not None
        assert outcome.p_corrected == pytest.approx(min(1, 5 * outcome.difference.p_value))


def test_less_is_better_where_the_metric_says_so():
    control = Control("random 1", "random layers", (1,))
    nats = tuple(2 + 0.01 * i for i in range(8))
    winner = Score("perplexity", 9.0, None, 8, {}, nats)
    far = Score("perplexity", 12.0, None, 8, {}, tuple(v + 0.2 + 0.01 * v for v in nats))
    for first, second, verdict_of in (
        (winner, far, "the cut wins"),
        (far, winner, "the control wins"),
        (winner, winner, "not distinguishable at n = 8"),
    ):
        raw = Outcome(control, None, second, paired(second, first), "lower")
        assert [o.verdict for o in corrected([raw])] == [verdict_of]


def test_a_control_is_a_file_for_as_long_as_it_is_measured():
    control = Control("last layers 8, Q4_0", "last layers", (8,), "Q4_0")
    with building(control, MODEL) as path:
        assert read_header(path).n_layers == N_LAYERS - 1
        assert sorted(p.name for p in path.parent.iterdir()) == ["control.gguf"]
    assert not path.parent.exists()
    with building(Control("uncut", "uncut"), MODEL) as path:
        assert path == MODEL
    assert MODEL.exists()
