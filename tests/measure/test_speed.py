"""Tokens a second: what is timed, how files pair, what a result file holds."""

from __future__ import annotations

import pytest

from ggsurgery.measure.metrics import speed
from ggsurgery.measure.results.comparison import compare
from ggsurgery.measure.results.result_files import load_results

from .._command import call
from .._needs import ROOT

MODEL = ROOT / "models/tiny-qwen3/tiny-qwen3.gguf"


class Clock:
    """Every decode of n tokens takes n seconds, and nothing else takes time."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.decoded = []
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)
        engine = speed.Engine
        original = engine.decode

        def decode(this, tokens, **options):
            self.decoded.append((this.path.name, len(tokens)))
            self.now += len(tokens) * (2 if this.path.name == "slow.gguf" else 1)
            return original(this, tokens, **options)

        monkeypatch.setattr(engine, "decode", decode)


def test_files_take_turns_and_the_warm_up_does_not_count(monkeypatch, tmp_path):
    clock = Clock(monkeypatch)
    slow = tmp_path / "slow.gguf"
    slow.symlink_to(MODEL)
    found = speed.speed_of_files([MODEL, slow], 16, 4, 2, 1)
    assert [s.prompt for s in found] == [(1.0, 1.0), (0.5, 0.5)]
    assert [s.generation for s in found] == [(1.0, 1.0), (0.5, 0.5)]
    one, other = MODEL.name, "slow.gguf"
    warm = [(one, 16), (one, 1), (other, 16), (other, 1)]
    turn = [(one, 16), *[(one, 1)] * 4, (other, 16), *[(other, 1)] * 4]
    assert clock.decoded == [*warm, *turn, *turn]


def test_a_result_file_is_read_back_and_compared(tmp_path):
    out = tmp_path / "speed.json"
    call("speed", MODEL, "--prompt", "32", "--generate", "4", "-r", "2", "-t", "1", "-o", out)
    (results,) = load_results(out)
    assert [s.metric for s in results.all_scores] == ["prompt_speed", "generation_speed"]
    for score in results.all_scores:
        assert score.value > 0 and score.n == 2 and score.direction == "higher"
        assert score.provenance["n_prompt"] == 32 and score.provenance["n_threads"] == 1
        assert score.provenance["machine"]
    assert "generation_speed" in call("compare", out, out).out


def test_the_turns_of_two_files_pair():
    def score(values):
        return speed.Speed(MODEL, values, values, 8, 8, 1).scores[0]

    found = compare(score((10.0, 11.0, 12.0)), score((20.0, 21.0, 22.5)))
    assert found.n == 3 and found.test == "paired t" and found.better


@pytest.mark.parametrize("option", ["--prompt", "--generate", "-r"])
def test_zero_is_refused(option):
    assert "x>=1" in call("speed", MODEL, option, "0", code=2).err


def test_one_clear_line_for_what_is_no_model(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"no model")
    assert "a.gguf" in call("speed", tmp_path / "a.gguf", code=1).err
    assert "no such file" in call("speed", tmp_path / "b.gguf", code=1).err
