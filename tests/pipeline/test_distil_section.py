"""The section `distil` of a recipe: the file of the single commands, sizes, interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggsurgery.compensate.distil.train import Trainer
from ggsurgery.errors import FormatError
from ggsurgery.ggufio.header import read_header
from ggsurgery.pipeline.document import load_document
from ggsurgery.pipeline.run import Pipeline
from tests._command import call
from tests._needs import needs_torch
from tests._small_models import write_small_model
from tests._tiny import MODEL, SEARCH_TEXT

RECIPE = """
name: Small trained
source: {file: in.gguf}
operations: [{delete: {layer: "1"}}]
distil: {text: text.txt, tokens: 384, ctx: 32, batch: 2, trainable: down, threads: 1}
quantize: {types: [Q8_0]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    needs_torch()
    write_small_model(tmp_path / "in.gguf", width=64, n_layers=3, vocabulary_of=MODEL)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "text.txt").write_bytes(SEARCH_TEXT.read_bytes()[:20000])
    return tmp_path


def test_the_trained_model_takes_the_place_of_the_cut(folder: Path) -> None:
    pipeline = Pipeline(folder / "recipe.yaml", folder / "out")
    planned = {p.task.name: p for p in pipeline.plan()}
    assert list(planned) == ["cut", "distil", "quantize Q8_0"]
    results = pipeline.run()
    before, after = results["distil"]["held_out"]
    assert after < before and results["distil"]["steps"] == [6, 6]
    made = {"cut": "-bare", "distil": "", "quantize Q8_0": "-Q8_0"}
    for name, end in made.items():
        size = (folder / f"out/Small-trained{end}.gguf").stat().st_size
        n_bytes = planned[name].n_bytes
        assert n_bytes is not None
        assert size == n_bytes if name == "cut" else size <= n_bytes < size + 20_000
        assert planned[name].at_most == (name != "cut")
    assert pipeline.files["cut"].name == "Small-trained.gguf"
    assert read_header(pipeline.files["cut"]).get("general.name") == "Small trained"
    bare = folder / "out/Small-trained-bare.gguf"
    options = ("--tokens", 384, "-c", 32, "--batch", 2, "--trainable", "down", "--threads", 1)
    files = (folder / "in.gguf", bare, folder / "alone.gguf")
    name = ("--name", "Small trained")
    call("distil", "--text", folder / "text.txt", *options, *name, *files)
    assert files[-1].read_bytes() == pipeline.files["cut"].read_bytes()
    assert [p.name for p in (folder / "out").glob("*checkpoint")] == []
    text = (folder / "recipe.yaml").read_text().replace("batch: 2", "batch: 3")
    (folder / "recipe.yaml").write_text(text)
    again = [
        p.task.name for p in Pipeline(folder / "recipe.yaml", folder / "out").plan() if not p.done
    ]
    assert again == ["distil", "quantize Q8_0"]


def test_an_interrupted_training_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update, steps = Trainer._update, []

    def interrupted(self: Trainer, loss: float) -> None:
        steps.append(self.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        update(self, loss)

    monkeypatch.setattr(Trainer, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(folder / "recipe.yaml", folder / "out").run()
    Pipeline(folder / "recipe.yaml", folder / "out").run()
    assert steps == [0, 1, 2, 3, 3, 4, 5]


def test_wrong_keys_name_their_line(folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("batch: 2", "bach: 2"))
    with pytest.raises(FormatError, match=r"line 5: unknown key distil\.bach.*Did you mean batch"):
        load_document(path)
    path.write_text(RECIPE.replace("text: text.txt", "text: none.txt"))
    with pytest.raises(FormatError, match=r"no file none\.txt"):
        Pipeline(path, folder / "out")
