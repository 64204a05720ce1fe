"""What one command warns of, every way to the same work warns of; `run` too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from ggsurgery.cli import cli
from ggsurgery.ggufio.lora import write_adapter
from ggsurgery.jobs import cautions
from ggsurgery.surgery.prepared import PreparedSurgery

from .._command import call
from .._gguf import tiny_llama
from .._needs import needs_torch
from .._small_models import write_small_model
from .._tiny import MODEL, SEARCH_TEXT
from ..fixtures import base, make

FAULT = "blk.0: what verify would call an error"


#: A command line of every command that writes a model, without `quantize`, whose files llama.cpp
#: writes, and `distil`, which has a test of its own.
WRITING = {
    "delete": "--layer 1 in.gguf out.gguf",
    "swap": "--layers 0,1 in.gguf out.gguf",
    "move": "--layer 1 --to 2 in.gguf out.gguf",
    "keep": "--layers 0-2 in.gguf out.gguf",
    "duplicate": "--layer 1 in.gguf out.gguf",
    "merge": "--layers 1-3 in.gguf out.gguf",
    "interpolate": "--layers 1,2 in.gguf out.gguf",
    "bridge": "--layer 1 --at 3 in.gguf out.gguf",
    "blend": "in.gguf in.gguf out.gguf",
    "prune": "--sparsity 0.3 in.gguf out.gguf",
    "lora merge": "in.gguf adapter.gguf out.gguf",
    "experts delete": "--used 1 experts.gguf out.gguf",
    "experts merge": "--keep 2 --text text.txt --ctx 64 --windows 2 experts.gguf out.gguf",
    "experts heal": "--text text.txt --tokens 99 --ctx 64 --force experts.gguf fewer.gguf out.gguf",
    "vocab trim": "--keep 900 --text text.txt tiny.gguf out.gguf",
    "meta set": "general.license mit in.gguf out.gguf",
    "meta unset": "general.name in.gguf out.gguf",
    "meta drop-tensor": "output_norm.weight in.gguf out.gguf",
    "template set": "--family chatml tiny.gguf out.gguf",
    "apply": "apply.yaml in.gguf out.gguf",
    "replay": "made.gguf in.gguf out.gguf",
    "repair": "--removed 2 wrong.gguf out.gguf",
    "laco": "--text text.txt --texts 2 --ctx 16 --threshold 0 --lowest 6 tiny.gguf out.gguf",
    "heal": "--layer 4 --text text.txt --tokens 256 --few-tokens --ctx 64 tiny.gguf out.gguf",
    "prune-depth": "--layers 1 --by influence --text text.txt tiny.gguf out.gguf",
    "prune-width": "--ffn 0.5 --score magnitude --no-refit tiny.gguf out.gguf",
}


def writing_commands(group: click.Group, before: str = "") -> Iterator[str]:
    """The commands that take --split-max-size, as every one that writes a model does."""
    context = click.Context(group)
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        if isinstance(one, click.Group):
            yield from writing_commands(one, f"{before}{name} ")
        elif one is not None and any(p.name == "split_max_size" for p in one.params):
            yield f"{before}{name}"


def test_every_writing_command_has_a_line_here():
    assert {*writing_commands(cli)} == {*WRITING, "quantize", "distil"}


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models whose every output has a fault; with recipes."""
    model = tiny_llama(tmp_path / "in.gguf", 4)
    shutil.copy(MODEL, tmp_path / "tiny.gguf")
    write_pruned(tmp_path / "wrong.gguf")
    (tmp_path / "text.txt").write_text(SEARCH_TEXT.read_text(encoding="utf-8")[:3000])
    call("delete", "--layer", "1", model, tmp_path / "made.gguf")
    mixture = {"width": 64, "n_layers": 2, "n_experts": 4, "vocabulary_of": MODEL}
    write_small_model(tmp_path / "experts.gguf", **mixture)
    fewer = ("--keep", "2", "--random", "0", tmp_path / "experts.gguf", tmp_path / "fewer.gguf")
    call("experts", "delete", *fewer)
    halves = tuple(np.ones(shape, np.float32) for shape in ((1, 64), (64, 1)))
    update = {"blk.1.attn_q.weight": halves}
    write_adapter(tmp_path / "adapter.gguf", "llama", update, alpha=1.0, name="a")
    (tmp_path / "apply.yaml").write_text("operations: [{delete: {layer: '1'}}]\n")
    (tmp_path / "run.yaml").write_text(
        f"name: x\nsource: {{file: {model}}}\noperations: [{{delete: {{layer: '1'}}}}]\n"
    )
    monkeypatch.setattr(PreparedSurgery, "faults", [FAULT])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_pruned(path: Path) -> None:
    """A gemma3 of seven layers with the array of windows of the eight it had."""
    keys = base.base("gemma3", 7) | {"attention.sliding_window_pattern": [True] * 5 + [False, True]}
    outline = make.outline("gemma3", keys)
    wrong = outline.keys | {"attention.sliding_window_pattern": [True] * 5 + [False, True, True]}
    make.write(path, "gemma3", wrong, make.weights(outline))


@pytest.mark.parametrize("command", WRITING)
def test_faults_of_an_output_are_warned_of(faulty, command):
    words = [*command.split(), *WRITING[command].split()]
    for dry_run in ([], ["--dry-run"]):
        said = call(*words, *dry_run, *(["--force"] if dry_run else [])).err
        assert said.count(f"warning: {FAULT}") == 1


def test_faults_of_a_distilled_output_are_warned_of(faulty):
    """Its dry run ends before there is anything to write."""
    needs_torch()
    call("delete", "--layer", "9", "tiny.gguf", "cut.gguf")
    numbers = ("--tokens", 256, "--ctx", 32, "--trainable", "down", "--lr", 1e-5)
    files = ("tiny.gguf", "cut.gguf", "out.gguf")
    said = call("distil", "--text", "text.txt", *numbers, *files).err
    assert said.count(f"warning: {FAULT}") == 1


def test_run_warns_of_faults_of_the_cut_model(faulty):
    said = call("run", "run.yaml", "--out", "run").err
    assert said.count(f"warning: {FAULT}") == 1


def test_an_option_without_effect_is_warned_of(faulty):
    said = call("delete", "--layer", "1", "--drop-mtp", "in.gguf", "out.gguf").err
    assert "warning: --drop-mtp: the file has no layers behind the trunk" in said


def test_run_warns_of_contexts_beyond_training_before_the_work(tmp_path):
    """As perplexity, kl, imatrix and laco do."""
    text = f"text: {SEARCH_TEXT}, ctx: 4096"
    (tmp_path / "r.yaml").write_text(
        f"name: x\nsource: {{file: {MODEL}}}\noperations: [{{delete: {{layer: '1'}}}}]\n"
        f"imatrix: {{{text}}}\n"
        f"evaluate: {{perplexity: {{{text}}}, kl: {{text: {SEARCH_TEXT}}}}}\n"
    )
    said = call("run", tmp_path / "r.yaml", "--out", tmp_path / "out", "--dry-run").err
    for setting in ("imatrix.ctx", "evaluate.perplexity.ctx"):
        (expected,) = cautions.of_context(MODEL, 4096)
        assert f"warning: {expected.replace('`ctx`', setting)}\n" in said
        assert "`ctx` 4096 is more than the context the model was trained with" in expected
    assert "evaluate.kl.ctx" not in said


def test_run_says_which_tensors_fell_back_as_quantize_does(tmp_path):
    """Rows of 64 cannot be Q4_K."""
    model = tiny_llama(tmp_path / "in.gguf", 2)
    said = call("quantize", model, tmp_path / "q.gguf", "--type", "Q4_K_M").err
    lines = [line for line in said.splitlines() if "cannot be q" in line]
    assert lines
    (tmp_path / "r.yaml").write_text(
        f"name: x\nsource: {{file: {model}}}\noperations: []\nquantize: {{types: [Q4_K_M]}}\n"
    )
    said = call("run", tmp_path / "r.yaml", "--out", tmp_path / "out").err
    assert all(f"  {line}\n" in said for line in lines)


def test_a_model_that_is_no_longer_usable():
    assert cautions.of_loss(20, 25) == []
    for after in (200, float("nan"), float("inf")):
        (text,) = cautions.of_loss(20, after)
        assert "not usable without further training" in text
