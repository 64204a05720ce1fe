"""`delete` against llama.cpp's own pruning: the same tensors in the same order."""

from __future__ import annotations

import subprocess

import pytest

from ggsurgery.plan.recipe import step

from .._gguf import peer_metadata, peer_tensors, tiny_llama
from .._llama_tools import llama_tool
from .._needs import needs_smollm2
from .test_prepare import operate


def pruned_by_llama_quantize(source, out, layers):
    done = subprocess.run(
        [llama_tool("llama-quantize"), "--prune-layers", layers, source, out, "COPY"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.slow
def test_smollm2(tmp_path):
    source = needs_smollm2()
    theirs = pruned_by_llama_quantize(source, tmp_path / "theirs.gguf", "10")
    ours = operate(source, tmp_path / "ours.gguf", step("delete", layer="10"))
    assert list(peer_tensors(ours).items()) == list(peer_tensors(theirs).items())


@pytest.mark.parametrize("layers", ["1", "0,3,10-11"])
def test_more_than_ten_layers_are_ordered_by_number(tmp_path, layers):
    source = tiny_llama(tmp_path / "in.gguf", 12, tied=False)
    theirs = pruned_by_llama_quantize(source, tmp_path / "theirs.gguf", layers.replace("-", ","))
    ours = operate(source, tmp_path / "ours.gguf", step("delete", layer=layers))
    assert list(peer_tensors(ours).items()) == list(peer_tensors(theirs).items())
    assert peer_metadata(ours)["llama.block_count"] == peer_metadata(theirs)["llama.block_count"]
