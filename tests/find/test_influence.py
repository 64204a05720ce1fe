"""Influence and angular distance against a float64 numpy forward pass, and by what must hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ggsurgery.cli import cli
from ggsurgery.errors import EngineError, GGSurgeryError, PlanError
from ggsurgery.files.text import read_corpus
from ggsurgery.find.influence import Influence, influence
from ggsurgery.measure.sink import find_sink
from ggsurgery.measure.windows import Windows
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.runtime.engine import Engine
from ggsurgery.surgery.prepare import prepare
from tests._needs import needs_package
from tests._numpy_qwen3 import Qwen3
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT

pytestmark = pytest.mark.slow


def measured(path: Path, tokens: str = "last") -> tuple[Influence, Windows]:
    with Engine.open(path, n_ctx=64, n_threads=1) as engine:
        windows = Windows.of_text(engine, read_corpus(SEARCH_TEXT), 64, 3)
        return influence(engine, windows.inputs, tokens=tokens), windows  # type: ignore[arg-type]


def test_against_numpy() -> None:
    oracle = Qwen3(MODEL)
    block, last, every = [], [], []
    for tokens in ("last", "all"):
        found, windows = measured(MODEL, tokens)
        if tokens == "last":
            for row in windows.inputs:
                x = oracle.states(row)
                u = x / np.linalg.norm(x, axis=2, keepdims=True)
                block.append(1 - (u[:-1] * u[1:]).sum(-1).mean(1))
                angle = np.arccos(np.clip(np.einsum("atd,btd->abt", u, u), -1, 1)) / np.pi
                last.append(angle[:, :, -1])
                every.append(angle.mean(-1))
        expected = np.mean(last if tokens == "last" else every, axis=0)
        for a in range(N_LAYERS):
            for b in range(a + 1, N_LAYERS + 1):
                assert found.angular[a, b - a] == pytest.approx(expected[a, b], rel=0.01)
        assert found.block == pytest.approx(np.mean(block, axis=0), rel=0.01)
        assert found.ranked() == [int(i) for i in np.argsort(found.block)]
    assert np.isnan(found.angular[N_LAYERS - 1, 2])


def test_a_layer_that_does_nothing_has_no_influence(tmp_path: Path) -> None:
    out = tmp_path / "damped.gguf"  # a copy damped to zero is an exact bypass
    recipe = Recipe((step("duplicate", layer="4", scale=0.0),))
    with prepare(recipe, [MODEL]) as operation:
        operation.write(out)
    found, _ = measured(out)
    assert found.n_layers == N_LAYERS + 1
    assert found.block[5] == pytest.approx(0, abs=1e-6)
    assert found.ranked()[0] == 5
    assert found.spans(1)[0] == (5, pytest.approx(0, abs=1e-3))


def test_sink_is_where_the_first_norm_explodes() -> None:
    norms = np.array([10.0, 11.0, 12.0, 13.0])
    assert find_sink(norms, np.array([12.0, 30.0, 900.0, 950.0])) == 2
    assert find_sink(norms, np.array([12.0, 14.0, 15.0, 16.0])) is None
    # a slow rise is no single layer's work
    assert find_sink(np.ones(5), np.array([2.0, 4.0, 8.0, 16.0, 32.0])) is None


def test_spans_that_cut_the_sink_are_named() -> None:
    found = replace(measured(MODEL)[0], sink=4)
    assert [found.cuts_sink(first, 2) for first in (2, 3, 4, 5)] == [False, True, True, False]
    spans = found.to_json(2)["spans"]
    assert {s["first"] for s in spans if s["cuts_sink"]} == {3, 4}
    assert not replace(found, sink=None).cuts_sink(4, 1)


def test_spans_out_of_range() -> None:
    found, _ = measured(MODEL)
    for n in (0, N_LAYERS + 1):
        with pytest.raises(EngineError, match="no such span"):
            found.spans(n)


def test_too_short_a_text(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("hello")
    result = CliRunner().invoke(cli, ["influence", str(MODEL), "--text", str(text)])
    assert isinstance(result.exception, GGSurgeryError)
    assert "too short" in str(result.exception) and "tokens" in str(result.exception)


def test_command(tmp_path: Path) -> None:
    arguments = [
        "influence",
        str(MODEL),
        "--text",
        str(SEARCH_TEXT),
        "--ctx",
        "64",
        "--windows",
        "2",
        "--span",
        "3",
        "--threads",
        "1",
    ]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [row["layer"] for row in document["layers"]] == list(range(N_LAYERS))
    distances = [row["angular"] for row in document["spans"]]
    assert distances == sorted(distances) and len(distances) == N_LAYERS - 2
    needs_package("matplotlib", extra="plot")
    plot = tmp_path / "influence.png"
    result = CliRunner().invoke(cli, [*arguments, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "influence" in result.stdout and "span of 3" in result.stdout
    wide = [*arguments[:-3], str(N_LAYERS + 1), "--plot", str(tmp_path / "wide.png")]
    result = CliRunner().invoke(cli, wide)
    assert isinstance(result.exception, PlanError) and "1 to 10 layers" in str(result.exception)
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and plot.stat().st_size > 5000


def test_states_of_several_shapes_are_no_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """gemma3n keeps several streams between its layers."""
    real = Engine.decode

    def wider(self: Engine, *args: Any, **more: Any) -> Any:
        out = real(self, *args, **more)
        self.observed["l_out-3"] = np.stack([self.observed["l_out-3"]] * 2)
        return out

    monkeypatch.setattr(Engine, "decode", wider)
    with pytest.raises(EngineError, match=r"does not name its hidden states.*no l_out-3"):
        measured(MODEL)
