"""Removing feed-forward channels: scores against numpy, the refit against float64, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.compensate.settings import Settings
from ggsurgery.compensate.width import scores
from ggsurgery.compensate.width.prune import Choice, narrow, narrow_on
from ggsurgery.compensate.width.size import Size, size_of
from ggsurgery.errors import ArchitectureError, PlanError
from ggsurgery.files.text import read_corpus
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.types import type_id
from ggsurgery.runtime.engine import Engine
from tests._command import call
from tests._numpy_qwen3 import Qwen3
from tests._small_models import write_small_model
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT

QUICK = ("--text", SEARCH_TEXT, "--tokens", 2048, "--ctx", 64, "--ridge", 0.05, "-t", 1)


def samples(n: int = 400, n_channels: int = 24, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Correlated channels [n, n_channels] and weights [width, n_channels]."""
    random = np.random.default_rng(3)
    mixed = random.standard_normal((n, n_channels)) @ random.standard_normal((n_channels,) * 2)
    return mixed * np.geomspace(1, 30, n_channels), random.standard_normal((width, n_channels))


def loss_without(h: np.ndarray, w: np.ndarray, gone: list[int], load: float) -> float:
    """‖h W − h_P W'‖² + load ‖ΔW‖² with the best W', by a solver of its own; the removed
    weights count as changed."""
    kept = [c for c in range(h.shape[1]) if c not in gone]
    rest = h[:, gone] @ w[:, gone].T
    features = np.vstack([h[:, kept], np.sqrt(load) * np.eye(len(kept))])
    target = np.vstack([rest, np.zeros((len(kept), len(w)))])
    solved, *_ = np.linalg.lstsq(features, target, rcond=None)
    left = target - features @ solved
    return float(np.square(left).sum() + load * np.square(w[:, gone]).sum())


@pytest.mark.parametrize("block", [1, 5, 64])
def test_obs_removes_what_costs_least_after_the_best_correction(block: int) -> None:
    h, w = samples()
    gram = h.T @ h
    load = 1e-2 * np.trace(gram) / len(gram)
    gone: list[int] = []
    for _ in range(15):
        left = [c for c in range(24) if c not in gone]
        gone.append(min(left, key=lambda c: loss_without(h, w, [*gone, c], load)))
        kept = scores.obs(gram.copy(), w, 24 - len(gone), 1e-2, block)
        assert sorted({*range(24)} - {*kept}) == sorted(gone)


def test_obs_takes_channels_first_that_are_zero_or_copies() -> None:
    h, w = samples()
    h[:, 4] = 0
    w[:, 9] = 0
    h[:, 20] = 2 * h[:, 7]
    kept = scores.obs(h.T @ h, w, 21, 1e-6)
    assert 4 not in kept and 9 not in kept and not {7, 20} <= set(kept)


def test_the_other_scores() -> None:
    h, w = samples()
    squares = np.square(h).sum(axis=0)
    alone = [np.square(np.outer(h[:, c], w[:, c])).sum() for c in range(24)]
    np.testing.assert_allclose(scores.energy(squares, w), alone)
    norms = [np.linalg.norm(h[:, c]) * np.abs(w[:, c]).sum() for c in range(24)]
    np.testing.assert_allclose(scores.wanda(squares, w), norms)
    assert scores.best(np.array([1.0, 5, 5, 0, 2]), 3) == (1, 2, 4)
    chosen = scores.random_channels(1000, 100, seed=1, layer=2)
    assert len(set(chosen)) == 100 and chosen == scores.random_channels(1000, 100, 1, 2)
    assert chosen != scores.random_channels(1000, 100, 1, 3)


def test_magnitude_of_the_weights(tmp_path: Path) -> None:
    oracle = Qwen3(MODEL)
    found = narrow(MODEL, size_of(read_header(MODEL), 0.5, None), Choice("magnitude"))
    assert len(found.kept) == N_LAYERS
    for layer, kept in found.kept.items():
        gate, up = (oracle.w[f"blk.{layer}.ffn_{n}.weight"] for n in ("gate", "up"))
        down = oracle.w[f"blk.{layer}.ffn_down.weight"]
        norms = [np.linalg.norm(gate, axis=1), np.linalg.norm(up, axis=1)]
        order = np.argsort(-np.prod([*norms, np.linalg.norm(down, axis=0)], axis=0))
        assert kept == tuple(sorted(order[: len(kept)]))


@pytest.mark.parametrize(
    ("kind", "share", "count", "multiple", "after"),
    [
        ("f16", 0.25, None, None, 384),
        ("f16", 0.2, None, None, 416),
        ("f16", 0.22, None, 1, 399),
        ("f16", None, 100, None, 96),
        ("f16", 0.99, None, None, 32),
        ("f16", 0.0, None, None, 512),
        ("q8_0", 0.25, None, None, 384),
        ("q4_k", 0.25, None, 32, 384),
        ("q4_k", 0.4, None, None, 256),
        ("f16", 0.01, None, None, "all 512 channels stay"),
        ("q4_k", 0.2, None, None, "all 512 channels stay"),
        ("f16", None, 600, None, "impossible number of channels"),
    ],
)
def test_the_number_that_stays(
    kind: str,
    share: float | None,
    count: int | None,
    multiple: int | None,
    after: object,
    tmp_path: Path,
) -> None:
    header = read_header(write_small_model(tmp_path / "m.gguf", n_layers=2))
    typed = tuple(
        replace(t, type=type_id(kind)) if "ffn_down" in t.name else t for t in header.tensors
    )
    header = replace(header, tensors=typed)
    if isinstance(after, str):
        with pytest.raises(PlanError, match=after):
            size_of(header, share, count, multiple)
    else:
        assert size_of(header, share, count, multiple).after == after


def oracle_of(size: Size, settings: Settings, n: int, n_layers: int) -> dict[int, tuple]:  # type: ignore[type-arg]
    """Kept channels and corrections of the first layers, on float64 forward passes."""
    uncut, now = Qwen3(MODEL), Qwen3(MODEL)
    with Engine.open(MODEL, n_ctx=64, n_threads=1) as engine:
        tokens = engine.tokenize_array(read_corpus(SEARCH_TEXT))
    rows = tokens[: n * settings.ctx].reshape(n, settings.ctx)
    states = [uncut.w["token_embd.weight"][row] for row in rows]
    wanted, found = states, {}
    for layer in range(n_layers):
        wanted = [uncut.layer(layer, x)["l_out"] for x in wanted]
        seen = [now.layer(layer, x) for x in states]
        weight = [1 / np.square(z).sum(axis=1) for z in wanted]
        for each in weight:
            each[0] *= settings.first
        root = np.sqrt(np.concatenate(weight))[:, None]
        h = np.concatenate([node["ffn_swiglu"] for node in seen]) * root
        name = f"blk.{layer}.ffn_down.weight"
        w = now.w[name]
        kept = list(scores.obs(h.T @ h, w, size.after, 1e-2))
        residual = np.concatenate([z - s["ffn_inp"] for z, s in zip(wanted, seen, strict=True)])
        residual = residual * root - h[:, kept] @ w[:, kept].T
        load = settings.ridge * np.square(h[:, kept]).sum() / len(kept)
        stacked = np.vstack([h[:, kept], np.sqrt(load) * np.eye(len(kept))])
        right = np.vstack([residual, np.zeros((len(kept), len(w)))])
        delta = np.linalg.lstsq(stacked, right, rcond=None)[0].T
        found[layer] = (tuple(kept), delta)
        for part in ("gate", "up"):
            now.w[f"blk.{layer}.ffn_{part}.weight"] = now.w[f"blk.{layer}.ffn_{part}.weight"][kept]
        now.w[name] = (w[:, kept] + delta).astype(np.float16).astype(np.float64)
        states = [now.layer(layer, x)["l_out"] for x in states]
    return found


@pytest.mark.slow
def test_channels_and_refit_are_those_of_float64() -> None:
    settings = Settings(tokens=1024, ctx=64, ridge=0.05)
    size = size_of(read_header(MODEL), 0.25, None)
    text = read_corpus(SEARCH_TEXT)
    found = narrow_on(MODEL, size, Choice(), text, settings, n_threads=1)
    expected = oracle_of(size, settings, 16, 4)
    assert found.healed is not None
    for layer, (kept, delta) in expected.items():
        assert len(set(kept) & set(found.kept[layer])) >= len(kept) - 1
        if kept == found.kept[layer]:
            ours = found.healed.sidecar[f"heal.blk.{layer}.ffn_down.weight"]
            assert np.linalg.norm(ours - delta) < 0.02 * np.linalg.norm(delta)
    assert sum(kept == found.kept[n] for n, (kept, _) in expected.items()) >= 3
    losses = found.healed.losses
    assert losses is not None and found.uncut is not None
    assert found.uncut < losses.healed < losses.bare


@pytest.mark.slow
def test_the_command_and_its_replay(tmp_path: Path) -> None:
    out, again = tmp_path / "out.gguf", tmp_path / "again.gguf"
    said = call("prune-width", "--ffn", 0.25, *QUICK, "--json", MODEL, out)
    found = json.loads(said.out)
    assert found["width"]["channels"] == {"before": 256, "after": 192}
    assert set(found["width"]["lost"]) == {str(n) for n in range(N_LAYERS)}
    assert found["layers"] == [N_LAYERS, N_LAYERS]
    assert read_header(out).get("{arch}.feed_forward_length") == 192
    call("replay", "--text", SEARCH_TEXT, out, MODEL, again)
    assert out.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_scores_without_a_text(score: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    said = call("prune-width", "--ffn", 0.5, "--score", score, "--no-refit", MODEL, out)
    assert "128 of 256 feed-forward channels stay in layers 0-9 (50.0% leave)" in said.err
    assert read_header(out).get("{arch}.feed_forward_length") == 128


def test_nothing_removed_is_the_input(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    call("prune-width", "--ffn", 0, MODEL, out)
    assert out.read_bytes() == MODEL.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ffn", 0.5), "a --text is needed"),
        (("--ffn", 0.5, "--no-refit"), "a --text is needed"),
        (("--text", SEARCH_TEXT), "one of --ffn and --ffn-channels is needed"),
        (("--ffn", 0.5, "--ffn-channels", 9, "--text", SEARCH_TEXT), "one of --ffn and"),
        (("--ffn", 0.5, "--multiple", 0, "--text", SEARCH_TEXT), "--multiple"),
        (("--ffn", 0.5, "--imatrix", "x", "--text", SEARCH_TEXT), "goes with --score wanda"),
    ],
)
def test_wrong_usage(arguments: tuple[object, ...], words: str, tmp_path: Path) -> None:
    said = call("prune-width", *arguments, MODEL, tmp_path / "out.gguf", code=2)
    assert words in said.err
    assert not list(tmp_path.iterdir())


def test_too_few_tokens_are_refused(tmp_path: Path) -> None:
    arguments = ("--ffn", 0.25, "--text", SEARCH_TEXT, "--tokens", 256, "--ctx", 64)
    said = call("prune-width", *arguments, MODEL, tmp_path / "out.gguf", code=1)
    assert "too few tokens to fit 192 features" in said.err


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "moe.gguf", n_layers=2, n_experts=4)
    with pytest.raises(ArchitectureError, match="mixtures of experts"):
        size_of(read_header(model), 0.5, None)
