"""Healing: the least-squares fit against numpy, the written file, and what it is worth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader

from ggsurgery.cli import cli
from ggsurgery.compensate.chain import Unseen
from ggsurgery.compensate.fit import heal
from ggsurgery.compensate.fit_again import heal_again
from ggsurgery.compensate.regression import Regression, Rows
from ggsurgery.compensate.settings import Method, Settings
from ggsurgery.compensate.sidecar import Sidecar
from ggsurgery.errors import ArchitectureError, EngineError, FormatError, GGSurgeryError, PlanError
from ggsurgery.files.text import read_corpus
from ggsurgery.measure.metrics.perplexity import perplexity_of_file
from ggsurgery.plan.heal import Place, check_cut, places
from ggsurgery.plan.ops import delete
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.plan.text import format_layers
from ggsurgery.plan.types import Plan
from ggsurgery.runtime.engine import Engine
from ggsurgery.surgery.prepare import prepare
from tests._numpy_qwen3 import Qwen3
from tests._scales import with_scales_of
from tests._small_models import write_small_model
from tests._tiny import MODEL, N_LAYERS, REPORT_TEXT, SEARCH_TEXT

pytestmark = pytest.mark.slow

FIRST = 30.0


def expected_corrections(
    method: str, gone: list[int], sweep: int, attention: bool, ridge: float, n_ctx: int, n: int
) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """The formulas of fit.py on float64 forward passes, solved by lstsq on stacked rows."""
    uncut, healed = Qwen3(MODEL), Qwen3(MODEL)
    with Engine.open(MODEL, n_ctx=64, n_threads=1) as engine:
        tokens = engine.tokenize_array(read_corpus(SEARCH_TEXT))[: n * n_ctx].reshape(n, n_ctx)
    wanted = [[uncut.w["token_embd.weight"][row]] for row in tokens]
    inner = []
    for states in wanted:
        inner.append([])
        for layer in range(N_LAYERS):
            node = uncut.layer(layer, states[-1])
            states.append(node["l_out"])
            inner[-1].append(node["ffn_inp"])
    kept = [i for i in range(N_LAYERS) if i not in gone]
    now = [states[0] for states in wanted]
    found: dict[str, np.ndarray] = {}  # type: ignore[type-arg]
    left = -1
    for layer, following in zip(kept, [*kept[1:], N_LAYERS], strict=True):
        left = sweep if following != layer + 1 else left - 1
        for tensor in ("attn_output", "ffn_down") if left >= 0 else ():
            if tensor == "attn_output" and not attention:
                continue
            seen = [healed.layer(layer, x) for x in now]
            if tensor == "attn_output":
                features = [node["kqv_out"] for node in seen]
                target = [states[following - 1] for states in inner]
                residual = [t - node["ffn_inp"] for t, node in zip(target, seen, strict=True)]
            else:
                features = [node["ffn_swiglu" if method == "refit" else "ffn_out"] for node in seen]
                target = [states[following] for states in wanted]
                residual = [t - node["l_out"] for t, node in zip(target, seen, strict=True)]
            weights = [1 / (t * t).sum(1) for t in target]
            for w in weights:
                w[0] *= FIRST
            root = np.sqrt(np.concatenate(weights))[:, None]
            f, r = np.concatenate(features) * root, np.concatenate(residual) * root
            load = np.sqrt(ridge * np.trace(f.T @ f) / f.shape[1])
            stacked = np.vstack([f, load * np.eye(f.shape[1])])
            zeros = np.zeros((f.shape[1], r.shape[1]))
            d = np.linalg.lstsq(stacked, np.vstack([r, zeros]), rcond=None)[0]
            name = f"blk.{layer}.{tensor}.weight"
            delta = d.T if method == "refit" else d.T @ healed.w[name]
            healed.w[name] = healed.w[name] + delta
            found[f"heal.{name}"] = delta
        now = [healed.layer(layer, x)["l_out"] for x in now]
    return found


@pytest.mark.parametrize(
    ("method", "gone", "sweep", "attention"),
    [
        ("refit", [4, 5], 0, False),
        ("tw", [4, 5], 0, False),
        ("refit", [8, 9], 0, False),
        ("refit", [2, 5], 1, False),
        ("tw", [4, 5], 2, False),
        ("refit", [4, 5], 1, True),
        ("refit", [1, 2], 1, False),
    ],
)
def test_fit_against_numpy(method: Method, gone: list[int], sweep: int, attention: bool) -> None:
    settings = Settings(
        method, tokens=512, ctx=64, ridge=0.05, first=FIRST, sweep=sweep, attention=attention
    )
    text = read_corpus(SEARCH_TEXT)
    found = heal(MODEL, gone, text, settings, n_threads=1, few_tokens=True, any_cut=True)
    expected = expected_corrections(method, gone, sweep, attention, 0.05, 64, 8)
    assert set(found.sidecar) == set(expected)
    for key, array in found.sidecar.items():
        assert array.shape == expected[key].shape
        error = np.linalg.norm(array - expected[key]) / np.linalg.norm(expected[key])
        assert error < 0.05, key  # llama.cpp keeps K and V in F16
    assert all(fit.after < fit.before for fit in found.fits)
    assert [s.operation for s in found.recipe.steps] == ["heal"]
    assert found.recipe.describe() == f"heal {format_layers(gone)}"


@pytest.mark.parametrize("method", ["refit", "tw"])
def test_a_carrier_with_a_separate_scale(tmp_path: Path, method: Method) -> None:
    """The same correction and the same weights as of the model without scales."""
    scaled = with_scales_of(MODEL, tmp_path / "scaled.gguf", {3: 0.25, 4: 8.0})
    settings = Settings(method, tokens=512, ctx=64, ridge=0.05, first=FIRST)
    healed = []
    for source in (MODEL, scaled):
        text = read_corpus(SEARCH_TEXT)
        found = heal(source, [4, 5], text, settings, n_threads=1, few_tokens=True)
        out = tmp_path / f"{source.stem}-healed.gguf"
        with prepare(found.recipe, [source], given=found.sidecar) as operation:
            operation.write(out)
        healed.append({t.name: np.asarray(t.data, np.float64) for t in GGUFReader(out).tensors})
    name = "blk.3.ffn_down.weight"
    before = {t.name: np.asarray(t.data, np.float64) for t in GGUFReader(MODEL).tensors}
    expected, found_ = healed[0][name] - before[name], healed[1][name] - before[name]
    assert np.linalg.norm(found_ - expected) < 0.03 * np.linalg.norm(expected)
    assert "blk.3.ffn_down.scale" not in healed[1] and "blk.3.ffn_up.scale" in healed[1]


def test_heal_again_needs_a_healed_recipe() -> None:
    with pytest.raises(PlanError, match="whose last step is `heal`"):
        heal_again(Recipe((step("delete", layer="1"),)), MODEL, "x")


def test_healing_mends_the_written_file(tmp_path: Path) -> None:
    """Fitted on one text, measured on another; both methods beat the bare cut."""
    report = read_corpus(REPORT_TEXT)

    def measured(path: Path) -> float:
        return perplexity_of_file(path, report, n_ctx=128, n_chunks=12, n_threads=1).nll

    base = measured(MODEL)
    bare = tmp_path / "bare.gguf"
    with prepare(Recipe((step("delete", layer="7-9"),)), [MODEL]) as operation:
        operation.write(bare)
    losses = {"bare": measured(bare) - base}
    methods: tuple[Method, ...] = ("tw", "refit")
    for method in methods:
        settings = Settings(method, tokens=12288, ctx=128, sweep=0)
        found = heal(MODEL, [7, 8, 9], read_corpus(SEARCH_TEXT), settings, n_threads=1)
        out = tmp_path / f"{method}.gguf"
        with prepare(found.recipe, [MODEL], given=found.sidecar) as operation:
            operation.write(out)
        losses[method] = measured(out) - base
        ours = {t.name: t.data for t in GGUFReader(out).tensors}
        theirs = {t.name: t.data for t in GGUFReader(bare).tensors}
        changed = [name for name in theirs if not np.array_equal(ours[name], theirs[name])]
        assert changed == ["blk.6.ffn_down.weight"]
    assert losses["bare"] > 0.1
    assert max(losses["refit"], losses["tw"]) < 0.85 * losses["bare"]


def test_two_cuts_are_healed_one_after_the_other() -> None:
    text = read_corpus(SEARCH_TEXT)
    found = heal(MODEL, [2, 6, 7], text, Settings(tokens=1024, ctx=64, sweep=0), n_threads=1)
    assert [fit.place.removed for fit in found.fits] == [(2,), (6, 7)]
    assert [(fit.number, fit.place.position) for fit in found.fits] == [(1, 1), (5, 4)]
    assert set(found.sidecar) == {"heal.blk.1.ffn_down.weight", "heal.blk.5.ffn_down.weight"}
    assert len(found.plan.blocks) == N_LAYERS - 3
    assert all(fit.after < fit.before for fit in found.fits)


def test_digest_tells_arrays_apart() -> None:
    text = read_corpus(SEARCH_TEXT)
    plans = [
        heal(
            MODEL,
            [4],
            text,
            Settings(tokens=256, ctx=64, ridge=ridge),
            n_threads=1,
            few_tokens=True,
        ).plan.digest
        for ridge in (0.1, 0.1, 0.2)
    ]
    assert plans[0] == plans[1] != plans[2]


def test_places() -> None:
    identity = Plan.identity(8)
    cut = places(delete(identity, [2, 3, 7]), 8)
    assert [p for p in cut if p.seam] == [
        Place(1, 1, 1, 3, True, (2, 3)),
        Place(4, 4, 6, 7, True, (7,)),
    ]
    assert not any(p.seam for p in places(identity, 8))
    merged = step("merge", layers="2-4").apply(identity)
    assert [p for p in places(merged, 8) if p.seam] == [Place(2, 2, 2, 4, True, ())]
    repeated = step("duplicate", layer="2-3").apply(identity)
    # the state behind the first copy has no counterpart in the uncut model
    assert [(p.begin, p.position, p.first, p.last) for p in places(repeated, 8) if p.seam] == [
        (3, 5, 3, 3)
    ]
    for layers in ([0, 1], [30]):
        with pytest.raises(PlanError):
            check_cut(layers, 30)


def test_refusals(tmp_path: Path) -> None:
    moe = write_small_model(tmp_path / "moe.gguf", n_layers=4, n_experts=4, vocabulary_of=MODEL)
    with pytest.raises(ArchitectureError, match="cannot take over"):
        heal(moe, [2], read_corpus(SEARCH_TEXT), Settings(tokens=256, ctx=64), n_threads=1)
    text = tmp_path / "no.npz"
    text.write_text("hello")
    with pytest.raises(FormatError, match="not a sidecar"):
        Sidecar.load(text)


@pytest.mark.parametrize("method", ["tw", "refit"])
def test_nothing_to_fit_is_said(method: Method, tmp_path: Path) -> None:
    """A carrier whose feed-forward says nothing gives no features."""
    silent = tmp_path / "silent.gguf"
    data = bytearray(MODEL.read_bytes())
    for tensor in GGUFReader(MODEL).tensors:
        if tensor.name in ("blk.3.ffn_down.weight", "blk.3.ffn_up.weight"):
            data[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = bytes(tensor.n_bytes)
    silent.write_bytes(data)
    settings = Settings(method, tokens=128, ctx=64)
    with pytest.raises(EngineError, match=r"layer 3 cannot take over: the states .* are zero"):
        heal(silent, [4], read_corpus(SEARCH_TEXT), settings, n_threads=1, few_tokens=True)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(PlanError, match=r"`ctx` \(512\) or more `tokens`, found 256"):
        heal(MODEL, [4], read_corpus(SEARCH_TEXT), Settings(tokens=256), n_threads=1)
    nan, inf = float("nan"), float("inf")
    for settings in (Settings(ridge=nan), Settings(first=inf), Settings(ridge=0.0)):
        with pytest.raises(PlanError, match="impossible `"):
            heal(MODEL, [4], "text", settings, n_threads=1)


def test_command_and_sidecar(tmp_path: Path) -> None:
    out, side = tmp_path / "healed.gguf", tmp_path / "healed.npz"
    arguments = [
        "heal",
        str(MODEL),
        str(out),
        "--layer",
        "4-5",
        "--text",
        str(SEARCH_TEXT),
        "--tokens",
        "1024",
        "--ctx",
        "64",
        "--sidecar",
        str(side),
        "--threads",
        "1",
    ]
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


def test_residual_from_the_sums_is_the_residual() -> None:
    """`solve` never sees the tokens again, and says the same as going over them."""
    rng = np.random.default_rng(5)
    shapes = ((6, 9), (6, 4), (6, 4), (6, 4))
    windows = [Rows(*(rng.standard_normal(s).astype(np.float32) for s in shapes)) for _ in range(4)]
    sums = Regression(9, 4, first=7.0)
    for window in windows:
        sums.add(window)
    d, after = sums.solve(0.1)
    expected = 0.0
    for f, r, z, _ in windows:
        w = 1 / np.square(z.astype(float)).sum(1)
        w[0] *= 7
        expected += float((w * np.square(r - f @ d).sum(1)).sum())
    assert after == pytest.approx(expected, rel=1e-5)
    assert sums.n == 24


def test_replay_of_a_healed_file(tmp_path: Path) -> None:
    """The header's recipe, the source and the text give the same bytes; the sidecar too."""
    text, out, side = tmp_path / "t.txt", tmp_path / "healed.gguf", tmp_path / "healed.npz"
    text.write_text(read_corpus(SEARCH_TEXT)[:9000])
    run = CliRunner().invoke
    made = run(
        cli,
        [
            "heal",
            str(MODEL),
            str(out),
            "--layer",
            "2,6-7",
            "--text",
            str(text),
            "--tokens",
            "512",
            "--ctx",
            "64",
            "--few-tokens",
            "--sweep",
            "1",
            "--force",
            "--sidecar",
            str(side),
        ],
    )
    assert made.exit_code == 0, (made.output, made.exception)
    again = ["replay", str(out), str(MODEL)]
    for number, more in enumerate((["--text", str(text)], ["--sidecar", str(side)])):
        new = tmp_path / f"new{number}.gguf"
        result = run(cli, [*again, str(new), *more])
        assert result.exit_code == 0, (result.output, result.exception)
        assert "identical" in result.stderr and new.read_bytes() == out.read_bytes()
    new = tmp_path / "no.gguf"
    with pytest.raises(GGSurgeryError, match="--text, the calibration text"):
        run(cli, [*again, str(new)], catch_exceptions=False)
    other = tmp_path / "other.txt"
    other.write_text("Another text. " * 500)
    with pytest.raises(PlanError, match="not the text"):
        run(cli, [*again, str(new), "--text", str(other)], catch_exceptions=False)
    arrays = {key: 1.0001 * array for key, array in Sidecar.load(side).items()}
    wrong = tmp_path / "wrong.npz"
    Sidecar(arrays).save(wrong)
    with pytest.raises(FormatError, match="other corrections"):
        run(cli, [*again, str(new), "--sidecar", str(wrong)], catch_exceptions=False)
    assert not new.exists()


def test_recipe_of_a_healed_cut_is_applied_with_its_sidecar(tmp_path: Path) -> None:
    found = heal(
        MODEL,
        [4],
        read_corpus(SEARCH_TEXT),
        Settings(tokens=256, ctx=64),
        n_threads=1,
        few_tokens=True,
    )
    recipe, side, out = tmp_path / "r.json", tmp_path / "s.npz", tmp_path / "out.gguf"
    recipe.write_text(json.dumps(found.recipe.to_json()))
    found.sidecar.save(side)
    arguments = ["apply", str(recipe), str(MODEL), str(out)]
    result = CliRunner().invoke(cli, [*arguments, "--sidecar", str(side)])
    assert result.exit_code == 0, (result.output, result.exception)
    with prepare(found.recipe, [MODEL], given=found.sidecar) as operation:
        operation.write(tmp_path / "library.gguf")
    assert out.read_bytes() == (tmp_path / "library.gguf").read_bytes()
    with pytest.raises(GGSurgeryError, match="not in the recipe"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_a_step_without_its_arrays_is_refused() -> None:
    plan = Plan.identity(10)
    for fit in ({}, {"arrays": {}}, {"arrays": ["x"]}):
        with pytest.raises(PlanError, match="not named"):
            step("heal", layer="4", fit=fit).apply(plan)
    with pytest.raises(PlanError, match="mapping"):
        step("heal", layer="4", fit="yes").apply(plan)


def test_threads_do_not_change_the_fit() -> None:
    text = read_corpus(SEARCH_TEXT)
    one, two = (
        heal(
            MODEL, [4], text, Settings(tokens=256, ctx=64), n_threads=n, few_tokens=True
        ).sidecar.digest
        for n in (1, 2)
    )
    assert one == two


def test_the_held_out_residual_is_that_of_a_fit_without_it() -> None:
    """Float64 numpy: fit on the first windows, residual on the others."""
    rng = np.random.default_rng(6)
    shapes = ((8, 5), (8, 4), (8, 4), (8, 4))
    windows = [Rows(*(rng.standard_normal(s).astype(np.float32) for s in shapes)) for _ in range(5)]
    sums = Regression(5, 4, first=7.0)
    for window in windows[:4]:
        sums.add(window)
    found = sums.held_out(windows[4:], sums.solve(0.1)[0])

    def weights(z: np.ndarray) -> np.ndarray:
        w = 1 / np.square(z.astype(np.float64)).sum(1)
        w[0] *= 7
        return w

    f, r = (np.vstack([w[i] for w in windows[:4]]).astype(np.float64) for i in (0, 1))
    w = np.concatenate([weights(x[2]) for x in windows[:4]])[:, None]
    gram = f.T @ (w * f)
    d = np.linalg.solve(gram + 0.1 * np.trace(gram) / 5 * np.eye(5), f.T @ (w * r))
    f, r, z, did = (x.astype(np.float64) for x in windows[4])
    w = weights(z)
    assert found.n == 8
    assert found.before == pytest.approx(float((w * np.square(r).sum(1)).sum()), rel=1e-5)
    assert found.after == pytest.approx(float((w * np.square(r - f @ d).sum(1)).sum()), rel=1e-5)
    assert found.scale == pytest.approx(float((w * np.square(did).sum(1)).sum()), rel=1e-5)
    untouched = Regression(5, 4, first=7.0)
    for window in windows:
        untouched.add(window)
    sums.add(windows[4])
    assert (sums.solve(0.1)[0] == untouched.solve(0.1)[0]).all()  # the look changed nothing


def test_few_tokens_are_refused_or_seen_through() -> None:
    """One token a feature: learnt by heart, and worse on what the fit has not seen."""
    text = read_corpus(SEARCH_TEXT)
    few = Settings(tokens=256, ctx=64, ridge=1e-2, sweep=0)
    with pytest.raises(PlanError, match=r"too few tokens .* 256 features.*512 or more, found 256"):
        heal(MODEL, [4, 5], text, few, n_threads=1)
    (fit,) = heal(MODEL, [4, 5], text, few, n_threads=1, few_tokens=True).fits
    assert fit.unseen is not None and fit.unseen.tokens == 512
    (more,) = heal(
        MODEL, [4, 5], text, Settings(tokens=4096, ctx=64, ridge=1e-2, sweep=0), n_threads=1
    ).fits
    assert more.unseen is not None and more.unseen.tokens == 512
    assert more.unseen.after < more.unseen.before and not more.overfits
    # the optimism of a fit: what it leaves of seen tokens against what it leaves of others
    assert fit.unseen.after - fit.after > 2 * (more.unseen.after - more.after) > 0
    assert replace(fit, unseen=Unseen(64, 0.7, 0.8)).overfits


def test_a_file_that_was_cut_is_not_cut_again_without_a_word(tmp_path: Path) -> None:
    cut, out = tmp_path / "cut.gguf", tmp_path / "out.gguf"
    with prepare(Recipe((step("delete", layer="7"),)), [MODEL]) as operation:
        operation.write(cut)
    arguments = [
        "heal",
        "--layer",
        "4",
        "--text",
        str(SEARCH_TEXT),
        "--tokens",
        "1024",
        "--ctx",
        "64",
        "--threads",
        "1",
        str(cut),
        str(out),
    ]
    refused = CliRunner().invoke(cli, arguments)
    assert isinstance(refused.exception, PlanError) and not out.exists()
    assert "cut before" in str(refused.exception) and "delete 7" in str(refused.exception)
    done = CliRunner().invoke(cli, [*arguments, "--cut-again"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "held-out windows" in done.output
    swapped = tmp_path / "swapped.gguf"
    with prepare(Recipe((step("swap", layers="1,2"),)), [MODEL]) as operation:
        operation.write(swapped)  # lacks no layer
    text = read_corpus(SEARCH_TEXT)
    assert heal(swapped, [4], text, Settings(tokens=1024, ctx=64), n_threads=1).fits
