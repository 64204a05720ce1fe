"""Experts deleted and merged: equal to the same done to plain arrays, which numpy runs."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGUFReader
from scipy.optimize import linear_sum_assignment

from ggsurgery.errors import PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare, prepare_replay
from ggsurgery.tensors.assignment import assign

from .._command import call
from .._needs import ROOT
from .._numpy_qwen3 import Qwen3Moe
from .._small_models import write_small_model
from ..fixtures import families, make, operate
from ..fixtures.network import Network
from .test_experts import recipe_of

STACKS = ("ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return Network(families.recipes()["qwen3moe"], tmp_path_factory.mktemp("m"))


@pytest.fixture(scope="module")
def model(network):
    return network.write("in.gguf")


def apply(source, out, one, **options):
    with prepare(Recipe((one,), options=tuple(options.items())), [source]) as prepared:
        assert not prepared.faults
        prepared.write(out)
    return out


def everywhere(text, n=8):
    return {str(layer): text for layer in range(n)}


def close(network_of_numpy, out):
    tokens = operate.text(40)
    found = operate.run({"out": out}, len(tokens))["out"]
    assert not isinstance(found, str), found
    wanted = network_of_numpy.logits(np.array(tokens))[-len(found) :]
    assert np.abs(found - wanted).max() < 1e-3 * np.ptp(wanted)


def test_deleting_is_pruning_the_arrays(model, tmp_path):
    """To 1e-3, as the same weights without those rows give it in float64."""
    kept = [0, 2, 3]
    out = apply(model, tmp_path / "out.gguf", step("keep_experts", experts=everywhere("0,2-3")))
    plain = Qwen3Moe(model)
    for name in plain.w:
        if "ffn_gate_inp" in name or "_exps" in name:
            plain.w[name] = plain.w[name][kept]
    close(plain, out)


def merged(w, layer, groups):
    """In float64, aligned by scipy's solver."""
    stacks = [w[f"blk.{layer}.{name}"] for name in STACKS]

    def vectors(e):
        parts = [stacks[0][e], stacks[1][e], stacks[2][e].T]
        return np.concatenate([p / np.linalg.norm(p) for p in parts], axis=1)

    new = [np.zeros((len(groups), *s.shape[1:])) for s in stacks]
    for place, group in enumerate(groups):
        for e, weight in group:
            _, order = linear_sum_assignment(vectors(group[0][0]) @ vectors(e).T, maximize=True)
            new[0][place] += weight * stacks[0][e][order]
            new[1][place] += weight * stacks[1][e][order]
            new[2][place] += weight * stacks[2][e][:, order]
    w |= {f"blk.{layer}.{name}": s for name, s in zip(STACKS, new, strict=True)}
    router = f"blk.{layer}.ffn_gate_inp.weight"
    w[router] = w[router][[group[0][0] for group in groups]]


def test_merging_is_the_mean_of_aligned_arrays(model, tmp_path):
    groups = [[(0, 0.75), (2, 0.25)], [(1, 0.5), (3, 0.5)]]
    one = step("merge_experts", experts=everywhere("0*0.75+2*0.25,1*0.5+3*0.5"))
    out = apply(model, tmp_path / "out.gguf", one)
    plain = Qwen3Moe(model)
    for layer in range(8):
        merged(plain.w, layer, groups)
    for tensor in GGUFReader(out).tensors:
        np.testing.assert_allclose(tensor.data, plain.w[tensor.name], rtol=1e-4, atol=1e-6)
    close(plain, out)
    assert read_header(out).get("{arch}.expert_count") == 2


def test_copies_with_their_neurons_in_another_order_merge_to_the_original(network, tmp_path):
    tensors, random = dict(network.tensors), np.random.default_rng(4)
    for layer in range(8):
        gate, up, down = (tensors[f"blk.{layer}.{name}"] for name in STACKS)
        order = random.permutation(gate.shape[1])
        gate[2], up[2], down[2] = gate[0][order], up[0][order], down[0][:, order]
    source = make.write(tmp_path / "in.gguf", "qwen3moe", network.outline.keys, tensors)
    one = step("merge_experts", experts=everywhere("0*0.6+2*0.4,1,3"))
    out = apply(source, tmp_path / "out.gguf", one)
    kept = apply(source, tmp_path / "kept.gguf", step("keep_experts", experts=everywhere("0-1,3")))
    for a, b in zip(GGUFReader(out).tensors, GGUFReader(kept).tensors, strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-5, atol=1e-7, err_msg=a.name)


def test_experts_that_stay_alone_keep_their_bytes(tmp_path):
    """Also in a quantized type, where decoding and encoding again would change them."""
    plain = write_small_model(tmp_path / "moe.gguf", n_layers=2, n_experts=4)
    source = tmp_path / "q4.gguf"
    call("quantize", plain, source, "--type", "Q4_K_M", "--pure")
    one = step("merge_experts", experts={"0": "0*0.75+2*0.25,1,3", "1": "2,0,1*0.5+3*0.5"})
    out = apply(source, tmp_path / "out.gguf", one)
    before = {t.name: t for t in GGUFReader(source).tensors}
    for tensor in GGUFReader(out).tensors:
        old = before[tensor.name]
        if "_exps" not in tensor.name:
            continue
        assert tensor.tensor_type == old.tensor_type
        alone = [(1, 1), (2, 3)] if tensor.name.startswith("blk.0.") else [(0, 2), (1, 0)]
        for new, was in alone:
            np.testing.assert_array_equal(tensor.data[new], old.data[was], tensor.name)
    assert not isinstance(operate.run({"out": out}, 16)["out"], str)
    with prepare_replay(out, [source]) as prepared:
        prepared.write(tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("arch", ["gpt-oss", "qwen2moe", "gemma4", "glm4moe", "granitemoe", "dbrx"])
def test_merged_files_run(arch, tmp_path):
    """Biases, fused gates, shared experts: llama.cpp takes the file and its numbers are finite."""
    recipe = recipe_of(arch)
    source = Network(recipe, tmp_path).write("in.gguf")
    header = read_header(source)
    layers = [n for n in range(header.n_layers) if "ffn_gate_inp.weight" in header.layer_tensors(n)]
    one = step("merge_experts", experts={str(n): "0*0.75+2*0.25,1,3" for n in layers})
    out = apply(source, tmp_path / "out.gguf", one)
    found = operate.run({"out": out}, recipe.n_tokens, gap=recipe.gap)["out"]
    assert not isinstance(found, str), found
    assert np.isfinite(found).all()


@pytest.mark.parametrize("n", [1, 2, 7, 40, 150])
def test_the_assignment_is_as_good_as_that_of_scipy(n):
    random = np.random.default_rng(n)
    for gain in (random.normal(size=(n, n)), random.integers(0, 3, (n, n)).astype(float)):
        found = assign(gain)
        assert sorted(found) == list(range(n))
        rows, columns = linear_sum_assignment(gain, maximize=True)
        assert gain[range(n), found].sum() == pytest.approx(gain[rows, columns].sum())


def test_the_command_merges_by_a_text(tmp_path):
    words = ROOT / "models/tiny-qwen3/tiny-qwen3.gguf"
    source = write_small_model(
        tmp_path / "moe.gguf", width=64, n_layers=2, n_experts=8, vocabulary_of=words
    )
    text = ROOT / "models/tiny-qwen3/heldout_search.txt"
    out = tmp_path / "out.gguf"
    options = ("--text", text, "--ctx", "64", "--windows", "8")
    call("experts", "merge", "--keep", "5", "--group", "3", *options, source, out)
    header = read_header(out)
    assert header.get("{arch}.expert_count") == 5
    recipe = str(header.get("ggsurgery.recipe"))
    assert "merge_experts" in recipe and "*" in recipe
    other = tmp_path / "other.gguf"
    refused = call("experts", "merge", "--keep", "1", *options, source, other, code=1).err
    assert "expected 2 to 8" in refused
    refused = call("experts", "merge", *options, source, other, code=2).err
    assert "one of --keep and --drop" in refused
    assert not other.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0*0.5+1*0.2,2", "not shares that sum to 1"),
        ("0*0.5+0*0.5,2", "expert 0 is named twice"),
        ("0*x+1*0.5,2", "experts of layer 0"),
        ("0,9*0.5+1*0.5", "expert 9 does not exist"),
        ("0,1*0.5+9*0.5", "expert 9 does not exist"),
    ],
)
def test_bad_groups_are_refused(model, text, words):
    with pytest.raises(PlanError, match=words):
        prepare(Recipe((step("merge_experts", experts=everywhere(text)),)), [model])
