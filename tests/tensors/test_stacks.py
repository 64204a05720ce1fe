"""Stacks over several models, blends of single layers, scaled tensors of copies."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from ggsurgery.ggufio.header import read_header

from .._command import call, error_line
from .._gguf import peer_metadata, peer_tensors, tiny_llama
from ..fixtures.base import base
from ..fixtures.llama import refusal
from ..fixtures.make import outline, weights, write


def arrays(path):
    """The values of every tensor, by the package gguf."""
    return {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model and the same layers the other way round, with other embeddings."""
    folder = tmp_path_factory.mktemp("models")
    first = tiny_llama(folder / "a.gguf", 6)
    call("keep", "--layers", "5,4,3,2,1,0", first, folder / "b.gguf")
    return first, folder / "b.gguf"


@pytest.mark.parametrize("layers", ["a:0-2,b:2,1,0", " a:0-2, b:2, b:1, b:0"])
def test_a_stack_takes_each_layer_from_its_model(tmp_path, models, layers):
    """b holds a's layers reversed: put right again, the tensors are those of a."""
    out, again = tmp_path / "out.gguf", tmp_path / "again.gguf"
    call("keep", "--layers", layers, *models, out)
    assert peer_tensors(out) == peer_tensors(models[0])
    assert refusal(out) == ""
    call("replay", out, *models, again)
    assert again.read_bytes() == out.read_bytes()
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"operations:\n  - keep:\n      layers: {layers}\n")
    call("apply", recipe, *models, tmp_path / "c.gguf")
    assert peer_tensors(tmp_path / "c.gguf") == peer_tensors(out)


def test_arrays_with_an_entry_a_layer_come_from_each_source(tmp_path):
    """lfm2: head_count_kv is 0 where a layer is a convolution."""
    keys = base("lfm2", 8)
    plan = outline("lfm2", keys)
    first = write(tmp_path / "a.gguf", "lfm2", keys, weights(plan))
    count = "lfm2.attention.head_count_kv"
    before = peer_metadata(first)[count]
    assert len(set(before)) == 2
    call("keep", "--layers", "7,6,5,4,3,2,1,0", first, tmp_path / "b.gguf")
    assert peer_metadata(tmp_path / "b.gguf")[count] == before[::-1]
    out = tmp_path / "out.gguf"
    call("keep", "--layers", "a:0-3,b:3,2,1,0", first, tmp_path / "b.gguf", out)
    assert peer_metadata(out)[count] == before
    assert peer_tensors(out) == peer_tensors(first)
    assert refusal(out) == ""


def test_models_that_do_not_fit_are_refused(tmp_path, models):
    first, other = models
    out = tmp_path / "out.gguf"
    wide = tmp_path / "wide.gguf"
    with_layers = ("keep", "--layers", "a:0-2,b:3-5")
    names = [f"t{i}" for i in range(64)]
    tiny_llama(wide, 6, meta=lambda w: w.add_token_list(names))
    one = tmp_path / "one.gguf"
    tiny_llama(one, 6, meta=lambda w: w.add_token_list([*names[:-1], "other"]))
    assert "the models have different tokenizers" in error_line(*with_layers, wide, one, out)
    assert "layer 6 does not exist" in error_line("keep", "--layers", "a:0,b:6", *models, out)
    assert "layer 9 does not exist" in error_line("keep", "--layers", "a:9,b:1", *models, out)
    assert "expected 2, found 1" in error_line("keep", "--layers", "a:0,b:1", first, out)
    assert "expected 1, found 2" in error_line("keep", "--layers", "0-3", first, other, out)
    for wrong in ("0-2,b:3", "ab:1", "A:1", "a:", ":1"):
        assert "not a list of layers" in error_line("keep", "--layers", wrong, *models, out)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("- delete: 1\n- keep: {layers: 'a:0,b:1'}\n")
    assert "comes before all other operations" in error_line("apply", recipe, *models, out)
    assert not out.exists()


def test_single_layers_blend_where_only_the_embeddings_differ(tmp_path, models):
    """All but the chosen layers comes from A, so B's vocabulary does not matter."""
    first = models[0]
    other = tmp_path / "other.gguf"
    tensors = arrays(models[1])
    writer = gguf.GGUFWriter(other, "llama")
    header = read_header(first)
    for key, value in header.metadata.items():
        if key.startswith("llama.") and key != "llama.vocab_size":
            writer.add_key_value(key, value.value, value.type)
    writer.add_uint32("llama.vocab_size", 100)
    width = tensors["token_embd.weight"].shape[1]
    for name, values in tensors.items():
        bigger = (
            np.zeros((100, width), np.float32)
            if name.startswith(("token_embd", "output."))
            else values
        )
        writer.add_tensor(name, bigger)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    out = tmp_path / "out.gguf"
    assert "different shapes" in error_line("blend", first, other, out)
    call("blend", "--layers", "2-3", "--weights", "0.5,0.5", first, other, out)
    found, a, b = arrays(out), arrays(first), tensors
    for name, values in found.items():
        blended = name.startswith(("blk.2.", "blk.3."))
        expected = (a[name].astype(np.float64) + b[name]) / 2 if blended else a[name]
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "command", [["duplicate", "--layer", "1"], ["bridge", "--layer", "1", "--at", "2"]]
)
def test_chosen_tensors_of_copies_are_scaled(tmp_path, models, command):
    out, source = tmp_path / "out.gguf", models[0]
    chosen = ["--scale-tensors", "attn_q,attn_k=0.7", "--scale-tensors", "ffn_up.weight=-2"]
    call(*command, *chosen, source, out)
    before, after = arrays(source), arrays(out)
    factors = {"attn_q.weight": 0.7, "attn_k.weight": 0.7, "ffn_up.weight": -2.0}
    for suffix in {n.removeprefix("blk.1.") for n in before if n.startswith("blk.1.")}:
        expected = before[f"blk.1.{suffix}"].astype(np.float64) * factors.get(suffix, 1.0)
        np.testing.assert_allclose(after[f"blk.2.{suffix}"], expected, rtol=1e-6)
        np.testing.assert_array_equal(after[f"blk.1.{suffix}"], before[f"blk.1.{suffix}"])
        np.testing.assert_array_equal(after[f"blk.3.{suffix}"], before[f"blk.2.{suffix}"])
    again = tmp_path / "again.gguf"
    call("replay", out, source, again)
    assert again.read_bytes() == out.read_bytes()


def test_a_tensor_that_the_layer_lacks_is_refused(tmp_path, models):
    out = tmp_path / "out.gguf"
    command = ("duplicate", "--layer", "1", "--scale-tensors")
    line = error_line(*command, "attn_qkv=0.5", models[0], out)
    assert "the layer has no tensor attn_qkv to scale: expected attn_k, attn_norm" in line
    for wrong in ("attn_q", "=2", "attn_q=x", "attn q=1"):
        assert "scale_tensors" in error_line(*command, wrong, models[0], out)


def test_a_factor_on_a_weight_with_a_separate_scale_counts_once(tmp_path):
    """The effective weight is scale × weight: the scale carries the factor, the weight stays."""
    source = tiny_llama(tmp_path / "plain.gguf", 2)
    with_scale = tmp_path / "in.gguf"
    writer = gguf.GGUFWriter(with_scale, "llama")
    for key, value in read_header(source).metadata.items():
        if key.startswith("llama."):
            writer.add_key_value(key, value.value, value.type)
    for name, values in arrays(source).items():
        writer.add_tensor(name, values)
    writer.add_tensor("blk.1.attn_q.scale", np.array([0.5], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    out = tmp_path / "out.gguf"
    call("duplicate", "--layer", "1", "--scale-tensors", "attn_q=0.25", with_scale, out)
    before, after = arrays(with_scale), arrays(out)
    effective = after["blk.2.attn_q.weight"].astype(np.float64) * after["blk.2.attn_q.scale"]
    np.testing.assert_allclose(effective, before["blk.1.attn_q.weight"] * 0.5 * 0.25, rtol=1e-6)
