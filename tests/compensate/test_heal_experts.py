"""Experts that take over what deleted ones did: exactly, where one of them can."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gguf import GGUFReader

from ggsurgery.ggufio.header import read_header

from .._command import call
from .._small_models import write_small_model
from .._tiny import MODEL, REPORT_TEXT, SEARCH_TEXT

STACKS = ("ffn_gate_exps.weight", "ffn_up_exps.weight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A mixture whose expert 0 takes the tokens of expert 2 once that one is deleted.

    Both open the same neurons and write other things with them, so a fit can make expert 0
    what expert 2 was. One expert a token; expert 0 has no token of its own.
    """
    folder = tmp_path_factory.mktemp("heal")
    path = folder / "in.gguf"
    write_small_model(path, width=64, n_layers=2, n_experts=4, vocabulary_of=MODEL, float16=False)
    reader = GGUFReader(path, "r+")
    reader.fields["llama.expert_used_count"].parts[-1][0] = 1
    for tensor in reader.tensors:
        if "ffn_gate_inp" in tensor.name:
            tensor.data[0] = 0.999 * tensor.data[2]
            tensor.data[1] = -tensor.data[2]
            tensor.data[3] = -0.01 * tensor.data[2]
        if tensor.name.endswith(STACKS):
            tensor.data[0] = tensor.data[2]
    reader.data.flush()
    del reader
    (folder / "text.txt").write_text(SEARCH_TEXT.read_text("utf-8")[:12000], "utf-8")
    (folder / "other.txt").write_text(REPORT_TEXT.read_text("utf-8")[:3000], "utf-8")
    experts = dict.fromkeys(range(2), "0-1,3")
    (folder / "cut.yaml").write_text(f"operations: [{{keep_experts: {{experts: {experts}}}}}]")
    call("apply", folder / "cut.yaml", path, folder / "cut.gguf")
    return folder


OPTIONS = ("--ctx", "128", "--tokens", "1536")


def loss(path, folder):
    options = ("--text", folder / "other.txt", "--ctx", "128", "--json")
    return np.log(json.loads(call("perplexity", path, *options).out)["value"])


def test_the_expert_that_is_left_does_what_the_deleted_one_did(folder, tmp_path):
    source, cut, out = folder / "in.gguf", folder / "cut.gguf", tmp_path / "out.gguf"
    options = (*OPTIONS, "--text", folder / "text.txt", "--json", "--out", tmp_path / "a.npz")
    options = (*options, "--force")  # of random weights the cut ones may suit the text better
    found = json.loads(call("experts", "heal", *options, source, cut, out).out)["heal"]
    assert all(fit["used"] and fit["left"] < 0.05 for fit in found["fits"]), found["fits"]
    whole, bare, healed = (loss(path, folder) for path in (source, cut, out))
    assert abs(bare - whole) > 0.05
    assert abs(healed - whole) < 0.1 * abs(bare - whole)
    before = {t.name: t.data for t in GGUFReader(cut).tensors}
    for tensor in GGUFReader(out).tensors:
        same = np.array_equal(tensor.data, before[tensor.name])
        assert same == ("ffn_down_exps" not in tensor.name), tensor.name
    again = tmp_path / "again.gguf"
    call("replay", out, source, again, "--sidecar", tmp_path / "a.npz")
    assert again.read_bytes() == out.read_bytes()


def test_merged_experts_are_healed_too(folder, tmp_path):
    """Half of expert 2 is in expert 0 after the merge; the fit finds the other half."""
    source, merged, out = folder / "in.gguf", tmp_path / "merged.gguf", tmp_path / "out.gguf"
    experts = dict.fromkeys(range(2), "0*0.5+2*0.5,1,3")
    recipe = tmp_path / "merge.yaml"
    recipe.write_text(f"operations: [{{merge_experts: {{experts: {experts}}}}}]")
    call("apply", recipe, source, merged)
    options = (*OPTIONS, "--text", folder / "text.txt", "--force", "--json")
    found = json.loads(call("experts", "heal", *options, source, merged, out).out)["heal"]
    assert all(fit["left"] < 0.05 for fit in found["fits"]), found["fits"]
    assert read_header(out).get("{arch}.expert_count") == 3


def test_one_clear_line(folder, tmp_path):
    source, out = folder / "in.gguf", tmp_path / "out.gguf"
    text = ("--text", folder / "text.txt")
    layers = tmp_path / "layers.gguf"
    call("delete", "--layer", "1", source, layers)
    err = call("experts", "heal", *OPTIONS, *text, source, layers, out, code=1).err
    assert "only files whose experts were deleted or merged" in err
    err = call("experts", "heal", *OPTIONS, *text, MODEL, folder / "cut.gguf", out, code=1).err
    assert err.count("\n") == 1 and "Traceback" not in err
    short = tmp_path / "short.txt"
    short.write_text("one two three " * 30)
    cut = folder / "cut.gguf"
    err = call("experts", "heal", *OPTIONS, "--text", short, source, cut, out, code=1).err
    assert "no window is left" in err
    assert not out.exists()
