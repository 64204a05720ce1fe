"""Computed layers in networks of several families, judged by llama.cpp's logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggsurgery.errors import ArchitectureError
from ggsurgery.plan.recipe import Recipe, Step, step
from ggsurgery.surgery import prepare
from tests.fixtures import families, operate
from tests.fixtures.network import Network

#: plain, sandwich norms, norms behind only, sinks and experts, recurrent, convolution
FAMILIES = ("llama", "gemma3", "olmo2", "gpt-oss", "qwen35", "qwen3moe", "lfm2")


def make(source: Path, out: Path, *steps: Step, **options: object) -> Path:
    with prepare(Recipe(steps, None, tuple(options.items())), [source]) as operation:
        operation.write(out)
    return out


def logits(**files: Path) -> dict[str, np.ndarray]:
    found = operate.run(files, 24)
    for name, values in found.items():
        assert not isinstance(values, str), f"{name}: {values}"
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_damped_to_nothing_changes_nothing(tmp_path: Path, family: str) -> None:
    source = Network(families.recipes()[family], tmp_path).write("source.gguf")
    damped = make(source, tmp_path / "0.gguf", step("bridge", layer=3, at=4, scale=0.0))
    half = make(source, tmp_path / "half.gguf", step("bridge", layer=3, at=4, scale=0.5))
    found = logits(source=source, damped=damped, half=half)
    np.testing.assert_array_equal(found["damped"], found["source"])
    assert operate.difference(found["source"], found["half"]) > 1e-3


def test_merged_layers_run_and_are_felt(tmp_path: Path) -> None:
    source = Network(families.recipes()["llama"], tmp_path).write("source.gguf")
    files = {"source": source}
    for method in ("rdsc", "reference", "mean", "damped"):
        factor = 0.5 if method == "damped" else None
        one = step("merge", layers="2-4", method=method, factor=factor)
        files[method] = make(source, tmp_path / f"{method}.gguf", one)
    found = logits(**files)
    for method, values in found.items():
        assert np.isfinite(values).all()
        if method != "source":
            assert operate.difference(found["source"], values) > 1e-3


def test_layers_of_unlike_kind_are_refused_unless_forced(tmp_path: Path) -> None:
    source = Network(families.recipes()["gemma3"], tmp_path).write("source.gguf")
    mixed = step("merge", layers="4-6", method="mean")  # the sixth attends to everything
    with pytest.raises(ArchitectureError, match=r"unlike kinds.*window.*full"):
        make(source, tmp_path / "out.gguf", mixed)
    assert not (tmp_path / "out.gguf").exists()
    forced = make(source, tmp_path / "out.gguf", mixed, force_kinds=True)
    assert np.isfinite(logits(forced=forced)["forced"]).all()


def test_a_pruned_network_of_experts_runs(tmp_path: Path) -> None:
    source = Network(families.recipes()["qwen3moe"], tmp_path).write("source.gguf")
    pruned = make(source, tmp_path / "out.gguf", step("prune", sparsity=0.5, scope="row"))
    found = logits(source=source, pruned=pruned)
    assert operate.difference(found["source"], found["pruned"]) > 1e-3
