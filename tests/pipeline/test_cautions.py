"""What one command warns of, every way to the same work warns of; `run` too."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggsurgery.cli._surgery import Options
from ggsurgery.cli._writing import write_recipe
from ggsurgery.pipeline import cautions
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import Operation

from .._command import call
from .._gguf import tiny_llama
from .._tiny import MODEL, SEARCH_TEXT

FAULT = "blk.0: what verify would call an error"


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose every output has a fault; with a recipe, and a file made of it."""
    model = tiny_llama(tmp_path / "in.gguf", 4)
    call("delete", "--layer", "1", model, tmp_path / "made.gguf")
    (tmp_path / "apply.yaml").write_text("operations: [{delete: {layer: '1'}}]\n")
    (tmp_path / "run.yaml").write_text(
        f"name: x\nsource: {{file: {model}}}\noperations: [{{delete: {{layer: '1'}}}}]\n"
    )
    monkeypatch.setattr(Operation, "faults", lambda self, out: [FAULT])
    return model


@pytest.mark.parametrize(
    "words",
    [
        "delete --layer 1 {in} out.gguf",
        "apply apply.yaml {in} out.gguf",
        "merge --layers 1-3 {in} out.gguf",
        "prune --sparsity 0.3 {in} out.gguf",
        "prune --sparsity 0.3 {in} out.gguf --dry-run",
        "replay made.gguf {in} out.gguf",
        "replay made.gguf {in} out.gguf --dry-run",
        "run run.yaml --out run",
    ],
)
def test_faults_of_an_output_are_warned_of(faulty, monkeypatch, words):
    monkeypatch.chdir(faulty.parent)
    said = call(*words.format_map({"in": faulty}).split()).err
    assert said.count(f"warning: {FAULT}") == 1


def test_what_a_method_proposed_is_checked_like_an_operation(faulty, monkeypatch, capsys):
    """The last step of laco, heal and prune-depth."""
    monkeypatch.chdir(faulty.parent)
    given = dict.fromkeys(Options.__dataclass_fields__)
    options = Options(**(given | {"drop_mtp": True}))  # type: ignore[arg-type]
    recipe = Recipe((step("delete", layer="1"),))
    write_recipe(recipe, faulty, Path("out.gguf"), options, figures={})
    said = capsys.readouterr().err
    assert f"warning: {FAULT}" in said
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
        (expected,) = cautions.of_context(MODEL, 4096, setting)
        assert f"warning: {expected}\n" in said
        assert f"{setting} 4096 is more than the context the model was trained with" in expected
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
