"""Mending what llama-quantize's own pruning leaves behind, measured by logits."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.arch import rules_for
from ggsurgery.arch.check import check
from ggsurgery.arch.unprune import unpruned
from ggsurgery.errors import FormatError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.verify import verify
from ggsurgery.surgery.repair import prepare_repair

from .._command import run
from .._llama_tools import llama_tool
from ..fixtures import families, operate
from ..fixtures.network import Network
from ._headers import header


def pruned(arch: str, folder: Path, layers: str) -> tuple[Path, Network]:
    """A fixture from which llama-quantize has removed layers."""
    network = Network(families.recipes()[arch], folder)
    source, out = network.write("source.gguf"), folder / "pruned.gguf"
    tool = llama_tool("llama-quantize")
    subprocess.run(
        [tool, "--prune-layers", layers, source, out, "COPY"], check=True, capture_output=True
    )
    return out, network


@pytest.mark.parametrize("arch", ["gemma3", "lfm2", "qwen35", "gemma4", "glm4moe", "nemotron_h"])
def test_pruned_by_llama_quantize_and_mended(arch: str, tmp_path: Path) -> None:
    wrong, network = pruned(arch, tmp_path, "0")
    mended = tmp_path / "mended.gguf"
    with prepare_repair(wrong, [0]) as found:
        assert found.changes
        found.write(mended)
    files = {"wrong": wrong, "mended": mended, "right": network.write("right.gguf", zero=[0])}
    logits = operate.run(files, network.recipe.n_tokens)
    right, ours, theirs = logits["right"], logits["mended"], logits["wrong"]
    assert isinstance(right, np.ndarray) and isinstance(ours, np.ndarray), ours
    assert operate.difference(right, ours) < 1e-3
    assert isinstance(theirs, str) or operate.difference(right, theirs) > 1e-2
    assert not [f for f in verify(read_header(mended)) if f.severity == "error"]


@pytest.mark.parametrize("arch", ["lfm2", "qwen35", "gemma4", "glm4moe", "nemotron_h"])
def test_verify_finds_what_llama_quantize_left(arch: str, tmp_path: Path) -> None:
    wrong, _ = pruned(arch, tmp_path, "0")
    found = read_header(wrong)
    assert [f for f in check(rules_for(found), found) if f.severity == "error"]


def test_command(tmp_path: Path) -> None:
    wrong, _ = pruned("gemma3", tmp_path, "2")
    out = tmp_path / "mended.gguf"
    dry = run("repair", "--removed", "2", "--dry-run", wrong, out)
    assert "sliding_window_pattern" in dry.stdout and not out.exists()
    result = json.loads(run("repair", "--removed", "2", "--json", wrong, out).stdout)
    key = "gemma3.attention.sliding_window_pattern"
    assert result["changes"][key]["after"] == [True, True, True, True, False, True, True]
    assert read_header(out).metadata["ggsurgery.repaired"].value == "removed layers: 2"
    again = run("repair", "--removed", "2", wrong, out, code=1)
    assert "exists" in again.stderr


def test_bad_input() -> None:
    found = header("lfm2", 5, attention__head_count_kv=[2] * 7)
    with pytest.raises(PlanError, match="numbers from 0 to 5"):
        unpruned(found, [9])
    with pytest.raises(PlanError, match="found none"):
        unpruned(found, [])
    with pytest.raises(FormatError, match="6 or 5 entries, found 7"):
        unpruned(found, [2])


def test_nothing_to_mend(tmp_path: Path) -> None:
    wrong, _ = pruned("llama", tmp_path, "2")
    with pytest.raises(PlanError, match="nothing to mend"):
        prepare_repair(wrong, [2])
