"""Healing any cut: sweeps, merges and repeats, pairs of files, one factor a cut, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader

from ggsurgery.cli import cli
from ggsurgery.compensate import checks
from ggsurgery.compensate.calibration import windows_of
from ggsurgery.compensate.fit import check_wins, heal
from ggsurgery.compensate.pair import recipe_of_pair
from ggsurgery.compensate.settings import Settings
from ggsurgery.compensate.sweep import Losses
from ggsurgery.errors import GGSurgeryError, PlanError
from ggsurgery.files.text import read_corpus
from ggsurgery.ggufio.header import read_header
from ggsurgery.measure.metrics.perplexity import perplexity_of_file
from ggsurgery.plan.recipe import Recipe, Step, step
from ggsurgery.runtime.quantize import quantize
from ggsurgery.surgery.prepare import prepare
from tests._numpy_qwen3 import Qwen3
from tests._small_models import write_small_model
from tests._tiny import MODEL, N_LAYERS, REPORT_TEXT, SEARCH_TEXT

pytestmark = pytest.mark.slow

QUICK = Settings(tokens=6144, ctx=64, ridge=0.05, sweep=0)


def write(recipe: Recipe, out: Path, given: object = None, source: Path = MODEL) -> Path:
    with prepare(recipe, [source], given=given) as operation:  # type: ignore[arg-type]
        operation.write(out)
    return out


def measured(path: Path) -> float:
    report = read_corpus(REPORT_TEXT)
    return perplexity_of_file(path, report, n_ctx=128, n_chunks=12, n_threads=1).nll


def test_a_sweep_beats_the_bare_cut_on_text_that_nothing_was_chosen_on(tmp_path: Path) -> None:
    settings = Settings(tokens=12288, ctx=128)
    found = heal(MODEL, [6, 7, 8], read_corpus(SEARCH_TEXT), settings, n_threads=1)
    out = write(found.recipe, tmp_path / "healed.gguf", found.sidecar)
    bare = write(Recipe((step("delete", layer="6-8"),)), tmp_path / "bare.gguf")
    losses = [measured(path) for path in (MODEL, bare, out)]
    assert losses[2] - losses[0] < 0.8 * (losses[1] - losses[0])
    assert found.losses is not None and found.losses.wins
    # what the held-out windows chose by is the loss of the written file's model
    assert found.losses.healed < found.losses.bare and found.losses.unrounded is None
    assert [fit.number for fit in found.fits] == [5, 9][: 1 + found.swept.sweeps[0]]
    assert found.windows == (96, 8)


def test_fit_and_choice_share_no_window(tmp_path: Path) -> None:
    """Other words after the text that is fitted on change the choice alone."""
    text = read_corpus(SEARCH_TEXT)
    with_rest = heal(MODEL, [4], text, QUICK, n_threads=1)
    again = heal(MODEL, [4], text[:13900] + "\n0" * 9000, QUICK, n_threads=1)
    assert with_rest.windows == again.windows == (96, 8)
    assert with_rest.sidecar.digest == again.sidecar.digest
    assert with_rest.losses != again.losses


@pytest.mark.parametrize(
    ("steps", "layers"),
    [
        ([step("merge", layers="4-6")], [4]),
        ([step("delete", layer="7"), step("duplicate", layer="2-3")], [5, 8]),
        ([step("keep", layers="0-3,6-9")], [3]),
    ],
    ids=["merge", "delete and repeat", "keep"],
)
def test_other_plans_are_healed_at_their_seams(
    steps: list[Step], layers: list[int], tmp_path: Path
) -> None:
    cut = Recipe(tuple(steps))
    found = heal(MODEL, (), read_corpus(SEARCH_TEXT), QUICK, recipe=cut, n_threads=1)
    assert [fit.number for fit in found.fits] == layers
    assert all(fit.after < fit.before and not fit.overfits for fit in found.fits)
    healed = write(found.recipe, tmp_path / "healed.gguf", found.sidecar)
    bare = write(cut, tmp_path / "bare.gguf")
    ours, theirs = ({t.name: t.data for t in GGUFReader(p).tensors} for p in (healed, bare))
    changed = sorted(name for name in theirs if not np.array_equal(ours[name], theirs[name]))
    assert changed == [f"blk.{layer}.ffn_down.weight" for layer in layers]


def test_a_pair_of_files(tmp_path: Path) -> None:
    cut = Recipe((step("delete", layer="4-5"),))
    made = write(cut, tmp_path / "cut.gguf")
    assert recipe_of_pair(MODEL, made).steps == cut.steps
    foreign = tmp_path / "foreign.gguf"  # as if another program had made it
    text = bytearray(made.read_bytes().replace(b"ggsurgery.", b"elsewhere."))
    foreign.write_bytes(text)
    assert recipe_of_pair(MODEL, foreign).steps == cut.steps
    name = "blk.4.ffn_gate.weight"
    tensor = next(t for t in GGUFReader(foreign).tensors if t.name == name)
    text[tensor.data_offset] ^= 1
    foreign.write_bytes(text)
    with pytest.raises(PlanError, match=r"blk\.4\.ffn_gate\.weight: not a cut of"):
        recipe_of_pair(MODEL, foreign)


def test_the_command_takes_a_pair(tmp_path: Path) -> None:
    made, out = write(Recipe((step("delete", layer="4-5"),)), tmp_path / "cut.gguf"), tmp_path / "o"
    shared = ["--text", str(SEARCH_TEXT), "--tokens", "6144", "--ctx", "64", "--sweep", "0"]
    shared += ["--ridge", "0.05", "-t", "1", "--json"]
    result = CliRunner().invoke(cli, ["heal", *shared, str(MODEL), str(made), str(out)])
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(result.stdout)["heal"]
    direct = heal(MODEL, [4, 5], read_corpus(SEARCH_TEXT), QUICK, n_threads=1)
    assert found["fits"][0]["residual_after"] == direct.fits[0].after
    assert measured(out) == measured(write(direct.recipe, tmp_path / "direct.gguf", direct.sidecar))
    both = ["heal", "--layer", "4", *shared, str(MODEL), str(made), str(tmp_path / "no")]
    refused = CliRunner().invoke(cli, both)
    assert refused.exit_code == 2 and "one cut is needed" in refused.output


def test_one_factor_a_cut(tmp_path: Path) -> None:
    """Prune&Comp: the factors of a float64 forward pass, and their effect in the file."""
    settings = Settings("scale", tokens=512, ctx=64)
    found = heal(MODEL, [4, 5], read_corpus(SEARCH_TEXT), settings, n_threads=1)
    oracle = Qwen3(MODEL)
    windows = windows_of(MODEL, read_corpus(SEARCH_TEXT), settings)[0].inputs[:8]
    ratios = []
    for window in windows:
        states = oracle.states(window)
        ratios.append(np.linalg.norm(states[6], axis=1) / np.linalg.norm(states[4], axis=1))
    expected = float(np.mean(ratios))
    assert dict(found.swept.scales) == {3: pytest.approx(expected, rel=2e-3)}
    out = write(found.recipe, tmp_path / "scaled.gguf")
    ours, theirs = ({t.name: t.data for t in GGUFReader(p).tensors} for p in (out, MODEL))
    for name in ("attn_output.weight", "ffn_down.weight"):
        scaled = theirs[f"blk.7.{name}"].astype(np.float32) / dict(found.swept.scales)[3]
        np.testing.assert_allclose(ours[f"blk.5.{name}"], scaled, rtol=1e-3, atol=1e-6)
        assert np.array_equal(ours[f"blk.3.{name}"], theirs[f"blk.3.{name}"])


def test_layers_with_experts_can_be_scaled(tmp_path: Path) -> None:
    moe = write_small_model(tmp_path / "moe.gguf", n_layers=4, n_experts=4, vocabulary_of=MODEL)
    settings = Settings("scale", tokens=256, ctx=64)
    found = heal(moe, [2], read_corpus(SEARCH_TEXT), settings, n_threads=1)
    out = write(found.recipe, tmp_path / "out.gguf", source=moe)
    assert read_header(out).n_layers == 3


@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q5_K"])
def test_a_quantized_carrier_loses_less_to_rounding_than_it_wins(kind: str, tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    quantize(MODEL, small, "Q8_0", allow_requantize=True, tensor_types=[f"ffn_down={kind.lower()}"])
    settings = Settings(tokens=12288, ctx=128, ridge=0.3, sweep=0)
    found = heal(small, [7, 8, 9], read_corpus(SEARCH_TEXT), settings, n_threads=1)
    losses = found.losses
    assert losses is not None and losses.unrounded is not None
    won, rounding = losses.bare - losses.unrounded, losses.healed - losses.unrounded
    assert won > 0 and rounding != 0 and rounding < 0.25 * won
    check_wins(found.losses)
    out = write(found.recipe, tmp_path / "out.gguf", found.sidecar, source=small)
    types = {t.name: t.tensor_type.name for t in GGUFReader(out).tensors}
    assert types["blk.6.ffn_down.weight"] == kind
    bare = write(Recipe((step("delete", layer="7-9"),)), tmp_path / "bare.gguf", source=small)
    assert measured(out) < measured(bare)  # of the written bytes, on another text


def test_rounding_that_takes_back_what_healing_wins_is_named() -> None:
    found = heal(MODEL, [4], read_corpus(SEARCH_TEXT), QUICK, n_threads=1)
    losses = Losses(bare=3.0, healed=3.01, unrounded=2.9)
    worse = replace(found, swept=replace(found.swept, losses=losses))
    with pytest.raises(GGSurgeryError, match=r"rounding .*3\.0100, and 2\.9000 .*`out_type` q8_0"):
        check_wins(worse.losses)


def test_a_cut_that_healing_does_not_help_is_not_written(tmp_path: Path) -> None:
    """One window learnt by heart."""
    settings = Settings(tokens=64, ctx=64, ridge=1e-6, sweep=0)
    found = heal(MODEL, [4], read_corpus(SEARCH_TEXT), settings, n_threads=1, few_tokens=True)
    assert not found.losses.wins
    with pytest.raises(GGSurgeryError, match="healing does not help"):
        check_wins(found.losses)
    out = tmp_path / "out.gguf"
    arguments = ["heal", "--layer", "4", "--text", str(SEARCH_TEXT), "--tokens", "64", "-c", "64"]
    arguments += [
        "--ridge",
        "1e-6",
        "--sweep",
        "0",
        "--few-tokens",
        "-t",
        "1",
        str(MODEL),
        str(out),
    ]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1 and not out.exists()
    assert CliRunner().invoke(cli, [*arguments, "--force"]).exit_code == 0 and out.exists()


def test_a_cut_of_the_sink_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "sink_of", lambda engine, tokens: 5)
    text = read_corpus(SEARCH_TEXT)
    with pytest.raises(
        PlanError, match=r"layer 5 makes the attention sink.*Cut 3-4 or 6-7 instead"
    ):
        heal(MODEL, [4, 5], text, QUICK, n_threads=1)
    assert heal(MODEL, [4, 5], text, QUICK, n_threads=1, any_cut=True).fits
    assert heal(MODEL, [6], text, QUICK, n_threads=1).fits


def test_plans_that_cannot_be_healed() -> None:
    text = read_corpus(SEARCH_TEXT)
    with pytest.raises(PlanError, match="nothing to heal"):
        heal(MODEL, (), text, QUICK, n_threads=1)
    pruned = Recipe((step("prune", sparsity=0.5),))
    with pytest.raises(PlanError, match="one model can be healed"):
        heal(MODEL, (), text, QUICK, recipe=pruned, n_threads=1)
    healed = heal(MODEL, [4], text, QUICK, n_threads=1).recipe
    with pytest.raises(PlanError, match="heals already"):
        heal(MODEL, (), text, QUICK, recipe=healed, n_threads=1)
    assert N_LAYERS == 10
