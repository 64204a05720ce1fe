"""Separate scales that llama.cpp reads and leaves out are named where they matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggsurgery.arch.asked import ignored_scales
from ggsurgery.ggufio.header import read_header

from .._command import call
from ..fixtures import llama, make, scale_survey
from ..fixtures.base import base


def scaled(arch: str, path: Path, scale: float | None) -> Path:
    plan = make.outline(arch, base(arch))
    more = {} if scale is None else {"blk.1.ffn_up.scale": np.full(1, scale, np.float32)}
    return scale_survey.write(plan, make.weights(plan), more, path)


@pytest.mark.parametrize(
    ("arch", "ignored"), [("smollm3", True), ("granite", True), ("llama", False)]
)
def test_the_graph_decides(tmp_path: Path, arch: str, ignored: bool) -> None:
    plain = scaled(arch, tmp_path / "plain.gguf", None)
    model = scaled(arch, tmp_path / "scaled.gguf", 0.5)
    out, pruned = tmp_path / "out.gguf", tmp_path / "pruned.gguf"
    said = [
        call("quantize", model, out, "--type", "F32").err,
        call("prune", "--sparsity", "0.3", model, pruned).err,
    ]
    paths = [str(p) for p in (plain, model, out)]
    of_plain, of_model, of_out = llama.in_child(llama.all_logits, paths, scale_survey.TOKENS)
    assert np.array_equal(of_plain, of_model) == ignored
    assert np.allclose(of_model, of_out, atol=1e-4) != ignored
    warning = (
        f"blk.1.ffn_up.scale: multiplied into the computed weights. llama.cpp's graph of {arch}"
    )
    assert [warning in text for text in said] == [ignored] * 2
    findings = call("verify", "--json", model).json["findings"]
    assert [f["where"] for f in findings if f["severity"] == "warning"] == (
        ["blk.1.ffn_up.scale"] if ignored else []
    )
    call("keep", "--layers", "0-7", model, tmp_path / "kept.gguf")  # copied: nothing changes
    assert ignored_scales(read_header(tmp_path / "kept.gguf")) == (
        {"blk.1.ffn_up.scale"} if ignored else set()
    )


@pytest.mark.parametrize("arch", ["llama", "smollm3", "qwen2"])
def test_the_data_are_what_a_new_survey_says(tmp_path: Path, arch: str) -> None:
    """All of it: python -m tests.fixtures.scale_survey (some minutes)."""
    found = scale_survey.ignored(arch, tmp_path)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    plan = make.outline(arch, base(arch))
    scales = {f"blk.0.{name}.scale": np.ones(1, np.float32) for name in names}
    path = scale_survey.write(plan, make.weights(plan), scales, tmp_path / "a.gguf")
    assert ignored_scales(read_header(path)) == {f"blk.0.{n}.scale" for n in found & set(names)}
