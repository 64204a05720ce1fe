"""Distillation: the loss against float64, interruptions, what is written, what it is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from ggsurgery.compensate.distil import loss
from ggsurgery.compensate.distil.network import Network
from ggsurgery.compensate.distil.run import Distillation
from ggsurgery.compensate.distil.settings import Settings
from ggsurgery.compensate.distil.train import Trainer, device_of
from ggsurgery.compensate.fit import Settings as HealSettings
from ggsurgery.compensate.fit import heal
from ggsurgery.compensate.sidecar import Sidecar
from ggsurgery.errors import EngineError, FormatError, PlanError
from ggsurgery.files.text import read_corpus
from ggsurgery.jobs.distil import DistilRequest
from ggsurgery.measure.metrics.perplexity import perplexity_of_file
from ggsurgery.plan.recipe import Recipe, step
from tests._command import call
from tests._needs import needs_torch
from tests._scales import with_scales_of
from tests._small_models import write_small_model
from tests._tiny import MODEL, REPORT_TEXT, SEARCH_TEXT
from tests.fixtures import llama

from ._task import base_and_cut, distilled, task, written


@pytest.fixture(autouse=True)
def torch():
    return needs_torch()


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}


def test_divergence_against_float64(tmp_path, monkeypatch, torch):
    """The loss and its gradient, in slices that do not divide the window."""
    base, cut = base_and_cut(tmp_path)
    teacher, student = Network.load(base), Network.load(cut)
    tokens = torch.arange(20) * 7
    wanted = teacher.states(tokens).detach()
    name = "blk.0.ffn_down.weight"
    student.weights[name].requires_grad_(True)
    monkeypatch.setattr(loss, "SLICE_BYTES", 4 * 1024 * 6)
    found = loss.divergence(teacher, wanted, student, student.states(tokens), gradient=0.5)
    states = student.states(tokens)
    logits = [n.logits(s).double() for n, s in ((teacher, wanted), (student, states))]
    p, q = (x - x.exp().sum(-1, keepdim=True).log() for x in logits)
    expected = (p.exp() * (p - q)).sum()
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
    (gradient,) = torch.autograd.grad(expected * 0.5, student.weights[name])
    np.testing.assert_allclose(student.weights[name].grad, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_distilling_beats_healing_beats_the_bare_cut(tmp_path):
    """tiny-qwen3 without its last three layers, trained on one text and measured on another."""
    text, report = read_corpus(SEARCH_TEXT), read_corpus(REPORT_TEXT)

    def lost(path: Path) -> float:
        return perplexity_of_file(path, report, n_ctx=128, n_chunks=12, n_threads=1).nll

    healing = heal(MODEL, [7, 8, 9], text, HealSettings(tokens=12288, ctx=128), n_threads=1)
    files = {
        "uncut": MODEL,
        "bare": written(Recipe((step("delete", layer="7-9"),)), MODEL, tmp_path / "bare.gguf"),
        "healed": written(healing.recipe, MODEL, tmp_path / "healed.gguf", healing.sidecar),
    }
    settings = Settings(tokens=48 * 128, ctx=128, batch=4)
    found = Distillation(MODEL, files["healed"], text, settings, n_threads=1).run()
    out = tmp_path / "distilled.gguf"
    files["distilled"] = written(found.recipe, files["healed"], out, found.sidecar)
    losses = {name: lost(path) for name, path in files.items()}
    assert losses["uncut"] < losses["distilled"] < losses["healed"] < losses["bare"]
    won = losses["bare"] - losses["healed"], losses["bare"] - losses["distilled"]
    assert won[1] > 1.2 * won[0]


@pytest.mark.parametrize("at", [1, 5, 9])
def test_a_run_that_goes_on_gives_the_same_weights(tmp_path, at):
    """Interrupted within a step, after a window that is lost: the state is that of the step."""
    base, cut = base_and_cut(tmp_path)
    state = tmp_path / "out.gguf.checkpoint"

    def stop(done: int, total: int, _pace: object) -> None:
        assert total == 22
        if done == at:
            raise KeyboardInterrupt

    expected = distilled(base, cut, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        distilled(base, cut, state, stop, epochs=2)
    assert state.exists()
    seen: list[int] = []
    found = distilled(base, cut, state, lambda done, *_: seen.append(done), epochs=2)
    assert seen[0] == (at - 1) // 2 * 2 + 1 and seen[-1] == 22
    assert found.trained == expected.trained
    assert found.sidecar.digest == expected.sidecar.digest


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    base, cut = base_and_cut(tmp_path)
    state = tmp_path / "out.gguf.checkpoint"
    first = task(base, cut, state)
    first._trainer.save()
    assert distilled(base, cut, state).trained.steps == (6, 6)
    with pytest.raises(PlanError, match=r"checkpoint: the checkpoint belongs to a training with"):
        distilled(base, cut, state, seed=1)
    for damage in (b"", b"PK", state.read_bytes()[:-300]):
        state.write_bytes(damage)
        with pytest.raises(FormatError, match="not a checkpoint of `ggsurgery distil`"):
            distilled(base, cut, state)


@pytest.mark.parametrize(
    "losses, steps, best",
    (
        ([5.0, 4.0, 3.0, 3.5, 3.25, 3.5, 3.0, 9.0, 9.0, 9.0, 9.0], (20, 24), 4),
        ([5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 5.5, 5.25, 5.0, 4.0, 3.0, 2.0], (24, 24), 24),
    ),
    ids=("to the end", "at the highest rates only"),
)
def test_a_rising_loss_ends_with_the_best_weights(
    tmp_path, monkeypatch, torch, losses, steps, best
):
    base, cut = base_and_cut(tmp_path)
    measured = iter(losses)
    copies: dict[int, list[object]] = {}

    def scripted(self: Trainer) -> None:
        copies[self.step] = self.parameters.copy()
        value = next(measured)
        if self.history and value < min(one for _, one in self.history):
            self._best = copies[self.step]
        self.history.append((self.step, value))

    monkeypatch.setattr(Trainer, "_evaluate", scripted)
    run = task(base, cut, epochs=4)
    found = run.run().trained
    assert found.steps == steps and found.ended_early == (steps[0] < steps[1])
    assert found.best == best and found.after == min(losses)
    for now, kept in zip(run._trainer.parameters.tensors, copies[best], strict=True):
        assert torch.equal(now.detach(), kept)


def test_training_that_helps_nothing_is_an_error(tmp_path):
    base, cut = base_and_cut(tmp_path)
    with pytest.raises(EngineError, match="no step of the training lowered the loss"):
        distilled(base, cut, rate=3.0)


def test_what_each_part_changes(tmp_path):
    base, cut = base_and_cut(tmp_path)
    before = tensors(cut)
    parts = {
        "all": lambda name: True,
        "norms": lambda name: "norm" in name,
        "down": lambda name: "ffn_down" in name,
        "lora:3": lambda name: "norm" not in name,
    }
    for part, concerned in parts.items():
        found = distilled(base, cut, trainable=part, rate=3e-4)
        after = tensors(written(found.recipe, cut, tmp_path / f"{part[:4]}.gguf", found.sidecar))
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed == {n for n in before if n.startswith("blk.") and concerned(n)}, part
        for name in changed:
            delta = after[name] - before[name]
            np.testing.assert_allclose(delta, found.sidecar[f"distil.{name}"], atol=1e-6)
            if part == "lora:3":
                assert np.linalg.matrix_rank(delta, tol=1e-5) <= 3
        assert found.trained.after < found.trained.before


def test_experts_are_trained(tmp_path):
    base, cut = base_and_cut(tmp_path, n_experts=4)
    found = distilled(base, cut)
    out = written(found.recipe, cut, tmp_path / "out.gguf", found.sidecar)
    before, after = tensors(cut), tensors(out)
    name = "blk.1.ffn_up_exps.weight"
    np.testing.assert_allclose(
        after[name] - before[name], found.sidecar[f"distil.{name}"], atol=1e-6
    )
    assert np.abs(found.sidecar[f"distil.{name}"]).max() > 0


def test_separate_scales_are_taken_up(tmp_path):
    """The same weights as of the model without scales."""
    base, cut = base_and_cut(tmp_path)
    scaled = with_scales_of(cut, tmp_path / "scaled.gguf", {0: 0.25})
    plain = distilled(base, cut)
    found = distilled(base, scaled)
    expected = tensors(written(plain.recipe, cut, tmp_path / "a.gguf", plain.sidecar))
    after = tensors(written(found.recipe, scaled, tmp_path / "b.gguf", found.sidecar))
    assert not any(name.endswith("scale") for name in after)
    for name, value in expected.items():
        np.testing.assert_allclose(after[name], value, atol=2e-4)


def test_another_vocabulary_is_refused(tmp_path):
    base, _ = base_and_cut(tmp_path)
    other = write_small_model(tmp_path / "other.gguf", width=64, n_layers=2)
    with pytest.raises(PlanError, match=r"other\.gguf: tokenizer\.ggml\.tokens: the vocabulary"):
        task(base, other)


@pytest.mark.parametrize("part", ["al", "lora", "lora:0", "lora:x", "all:3", "norms:"])
def test_unknown_parts_are_refused(part):
    with pytest.raises(PlanError, match="unknown `trainable`"):
        Settings(trainable=part).check()


def test_settings_that_cannot_be():
    with pytest.raises(PlanError, match="too few tokens"):
        Settings(tokens=900).check()
    with pytest.raises(PlanError, match="`lr`"):
        Settings(rate=float("nan")).check()


def test_no_gpu_is_an_error(monkeypatch, torch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == "cpu"
    with pytest.raises(EngineError, match="no CUDA GPU"):
        device_of("cuda")


def test_memory_decides_over_computing_twice(tmp_path, monkeypatch):
    from ggsurgery.compensate.distil import run

    base, cut = base_and_cut(tmp_path)
    monkeypatch.setattr(run, "free_memory", lambda _device: None)
    plain = task(base, cut).estimate()
    monkeypatch.setattr(run, "free_memory", lambda _device: plain.n_bytes - 1)
    tight = task(base, cut).estimate()
    assert not plain.recompute and tight.recompute
    assert tight.n_bytes < plain.n_bytes


COMMAND = ("--text", SEARCH_TEXT, "--tokens", 384, "--ctx", 32, "--batch", 2, "--threads", 1)


def test_the_command(tmp_path):
    """It trains, writes, removes its checkpoint; replay needs the sidecar and gives the bytes."""
    base, cut = base_and_cut(tmp_path)
    out, kept = tmp_path / "out.gguf", tmp_path / "kept.npz"
    plan = call("distil", *COMMAND, "--dry-run", "--json", base, cut, out).json
    assert plan["steps"] == 6 and plan["seconds"] > 0 and not out.exists()
    done = call("distil", *COMMAND, "--json", "--out", kept, base, cut, out)
    answer = done.json
    assert answer["distil"]["steps"] == [6, 6]
    assert answer["distil"]["sidecar"] == Sidecar.load(kept).digest
    assert "numbers trained in 6 steps on cpu: about" in done.err
    assert [p.name for p in tmp_path.glob("*checkpoint*")] == []
    again = tmp_path / "again.gguf"
    failed = call("replay", out, cut, again, code=1)
    assert "training is not reproducible bit for bit" in failed.err
    assert "distil --out" in failed.err
    call("replay", out, cut, again, "--sidecar", kept)
    assert again.read_bytes() == out.read_bytes()
    failed = call("replay", out, cut, tmp_path / "x.gguf", "--text", SEARCH_TEXT, code=1)
    assert "not reproducible" in failed.err


def test_quantized_files_are_warned_of(tmp_path):
    base, cut = base_and_cut(tmp_path)
    small = tmp_path / "q4.gguf"
    call("quantize", cut, small, "--type", "Q4_0")
    done = call("distil", *COMMAND, "--dry-run", base, small, tmp_path / "out.gguf")
    assert "rounded to q4_0" in done.err and "set --out-type to f16" in done.err


def test_without_pytorch(tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    base, cut = base_and_cut(tmp_path)
    monkeypatch.setattr("ggsurgery.files.installation.import_module", absent)
    failed = call("distil", *COMMAND, base, cut, tmp_path / "out.gguf", code=1)
    assert "training needs the package torch, which is not installed" in failed.err


@pytest.mark.slow
def test_a_saved_adapter_is_what_llama_cpp_loads(tmp_path):
    """The cut model with the adapter computes what the distilled file does."""
    base, cut = base_and_cut(tmp_path)
    out, adapter = tmp_path / "out.gguf", tmp_path / "adapter.gguf"
    low = ("--trainable", "lora:3", "--save-adapter", adapter)
    call("distil", *COMMAND, *low, base, cut, out)
    tokens = [5, 99, 300, 7, 812, 64]
    (trained,) = llama.in_child(llama.all_logits, [str(out)], tokens)
    pairs = [(str(adapter), 1.0)]
    (applied,) = llama.in_child(llama.all_logits, [str(cut)], tokens, 0, False, pairs)
    (plain,) = llama.in_child(llama.all_logits, [str(cut)], tokens)
    assert np.abs(trained - applied).max() < 0.01 * np.abs(trained - plain).max()
    merged = tmp_path / "merged.gguf"
    call("lora", "merge", cut, adapter, merged)
    expected = tensors(out)
    for name, value in tensors(merged).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)
    failed = call("distil", *COMMAND, "--save-adapter", adapter, base, cut, out, code=2)
    assert "--save-adapter needs --trainable lora:RANK" in failed.err


def test_messages_name_the_flags(tmp_path):
    base, cut = base_and_cut(tmp_path)
    out = tmp_path / "out.gguf"
    failed = call("distil", *COMMAND, "--trainable", "nrms", base, cut, out, code=1)
    assert "unknown --trainable: expected all, norms, down or lora:RANK, found nrms" in failed.err
    assert "Did you mean norms?" in failed.err
    failed = call("distil", *COMMAND, "--lr", 3, base, cut, out, code=1)
    assert "Try a lower --lr or more --tokens." in failed.err
    assert not out.exists()


def test_the_request_trains_as_the_command_does(tmp_path):
    base, cut = base_and_cut(tmp_path)
    numbers = {"tokens": 384, "ctx": 32, "batch": 2, "threads": 1}
    request = DistilRequest(base=base, cut=cut, text=SEARCH_TEXT, **numbers)
    assert request.check() == []
    ticks: list[tuple[int, int]] = []
    found = request.run(lambda done, total: ticks.append((done, total)))
    assert ticks[-1] == (11, 11)
    out = tmp_path / "out.gguf"
    call("distil", *COMMAND, base, cut, out)
    ours = written(found.recipe, cut, tmp_path / "ours.gguf", found.sidecar)
    assert ours.read_bytes() == out.read_bytes()
