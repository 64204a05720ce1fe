"""Healing: the least-squares fit against numpy, the written file, and what it is worth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader

from ggsurgery.cli import cli
from ggsurgery.errors import ArchitectureError, FormatError, PlanError
from ggsurgery.evaluate.perplexity import perplexity_of_file, read_text
from ggsurgery.heal import Cut, cuts_of, heal
from ggsurgery.heal_sidecar import Sidecar
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.runtime.engine import Engine
from ggsurgery.surgery import prepare
from tests._numpy_qwen3 import Qwen3
from tests._small_models import write_small_model
from tests._tiny import MODEL, N_LAYERS, REPORT_TEXT, SEARCH_TEXT

FIRST = 30.0


def expected_correction(method: str, cut: Cut, ridge: float, n_ctx: int, n: int) -> np.ndarray:  # type: ignore[type-arg]
    """The formulas of heal.py on a float64 forward pass, solved by lstsq on stacked rows."""
    oracle = Qwen3(MODEL)
    with Engine.open(MODEL, n_ctx=64, n_threads=1) as engine:
        tokens = engine.tokenize_array(read_text(SEARCH_TEXT))
    features, residuals, weights = [], [], []
    for w in range(n):
        x = oracle.w["token_embd.weight"][tokens[w * n_ctx : (w + 1) * n_ctx]]
        for layer in range(cut.last + 1):
            nodes = oracle.layer(layer, x)
            if layer == cut.carrier:
                carrier = nodes
            x = nodes["l_out"]
        features.append(carrier["ffn_swiglu" if method == "refit" else "ffn_out"])
        residuals.append(x - carrier["ffn_inp"] - carrier["ffn_out"])
        w_t = 1 / (x * x).sum(1)
        w_t[0] *= FIRST
        weights.append(w_t)
    f, r, root = (np.concatenate(a) for a in (features, residuals, weights))
    f, r = f * np.sqrt(root)[:, None], r * np.sqrt(root)[:, None]
    width = f.shape[1]
    load = np.sqrt(ridge * np.trace(f.T @ f) / width)
    stacked = np.vstack([f, load * np.eye(width)])
    d = np.linalg.lstsq(stacked, np.vstack([r, np.zeros((width, r.shape[1]))]), rcond=None)[0]
    if method == "refit":
        return d.T
    return d.T @ oracle.w[f"blk.{cut.carrier}.ffn_down.weight"]


@pytest.mark.parametrize("method", ["refit", "tw"])
def test_fit_against_numpy(method: str) -> None:
    found = heal(MODEL, [4, 5], read_text(SEARCH_TEXT), method=method, n_tokens=512, n_ctx=64,  # type: ignore[arg-type]
                 ridge=0.05, first=FIRST, n_threads=1)  # fmt: skip
    expected = expected_correction(method, Cut(4, 5), 0.05, 64, 8)
    (array,) = found.sidecar.values()
    assert array.shape == expected.shape
    error = np.linalg.norm(array - expected) / np.linalg.norm(expected)
    assert error < 0.03  # llama.cpp keeps K and V in F16
    assert found.fits[0].after < found.fits[0].before
    assert [s.operation for s in found.recipe.steps] == ["delete", "add_weights"]


def test_healing_mends_the_written_file(tmp_path: Path) -> None:
    """Fitted on one text, measured on another; both methods beat the bare cut."""
    report = read_text(REPORT_TEXT)

    def measured(path: Path) -> float:
        return perplexity_of_file(path, report, n_ctx=128, n_chunks=12, n_threads=1).nll

    base = measured(MODEL)
    bare = tmp_path / "bare.gguf"
    with prepare(Recipe((step("delete", layer="1-2"),)), [MODEL]) as operation:
        operation.write(bare)
    losses = {"bare": measured(bare) - base}
    for method in ("tw", "refit"):
        found = heal(MODEL, [1, 2], read_text(SEARCH_TEXT), method=method,  # type: ignore[arg-type]
                     n_tokens=12288, n_ctx=128, n_threads=1)  # fmt: skip
        out = tmp_path / f"{method}.gguf"
        with prepare(found.recipe, [MODEL], given=found.sidecar) as operation:
            operation.write(out)
        losses[method] = measured(out) - base
        ours = {t.name: t.data for t in GGUFReader(out).tensors}
        theirs = {t.name: t.data for t in GGUFReader(bare).tensors}
        changed = [name for name in theirs if not np.array_equal(ours[name], theirs[name])]
        assert changed == ["blk.0.ffn_down.weight"]
    assert losses["bare"] > 0.1
    assert max(losses["refit"], losses["tw"]) < 0.85 * losses["bare"]


def test_two_cuts_are_healed_one_after_the_other() -> None:
    text = read_text(SEARCH_TEXT)
    found = heal(MODEL, [2, 6, 7], text, n_tokens=1024, n_ctx=64, n_threads=1)
    assert [fit.cut for fit in found.fits] == [Cut(2, 2), Cut(6, 7)]
    assert set(found.sidecar) == {"heal.blk.1.ffn_down.weight", "heal.blk.5.ffn_down.weight"}
    assert len(found.plan.blocks) == N_LAYERS - 3
    assert all(fit.after < fit.before for fit in found.fits)


def test_digest_tells_arrays_apart() -> None:
    text = read_text(SEARCH_TEXT)
    plans = [
        heal(MODEL, [4], text, n_tokens=256, n_ctx=64, ridge=ridge, n_threads=1).plan.digest
        for ridge in (0.1, 0.1, 0.2)
    ]
    assert plans[0] == plans[1] != plans[2]


def test_cuts() -> None:
    assert cuts_of([7, 5, 6, 9], 30) == (Cut(5, 7), Cut(9, 9))
    for layers in ([0, 1], [30]):
        with pytest.raises(PlanError):
            cuts_of(layers, 30)


def test_refusals(tmp_path: Path) -> None:
    moe = write_small_model(tmp_path / "moe.gguf", n_layers=4, n_experts=4, vocabulary_of=MODEL)
    with pytest.raises(ArchitectureError, match="cannot take over"):
        heal(moe, [2], read_text(SEARCH_TEXT), n_tokens=256, n_ctx=64, n_threads=1)
    text = tmp_path / "no.npz"
    text.write_text("hello")
    with pytest.raises(FormatError, match="not a sidecar"):
        Sidecar.load(text)


def test_command_and_sidecar(tmp_path: Path) -> None:
    out, side = tmp_path / "healed.gguf", tmp_path / "healed.npz"
    arguments = ["heal", str(MODEL), str(out), "--layer", "4-5", "--text", str(SEARCH_TEXT),
                 "--tokens", "1024", "--ctx", "64", "--sidecar", str(side),
                 "--threads", "1"]  # fmt: skip
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert facts["layers"] == [N_LAYERS, N_LAYERS - 2]
    assert facts["heal"]["cuts"][0]["carrier"] == 3
    sidecar = Sidecar.load(side)
    assert sidecar.digest == facts["heal"]["sidecar"]
    again = tmp_path / "again.gguf"
    recipe = Recipe.from_json(facts["heal"]["recipe"])
    with prepare(recipe, [MODEL], given=sidecar) as operation:
        operation.write(again)
    assert again.read_bytes() == out.read_bytes()
