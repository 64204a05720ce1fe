"""Deleting experts: the right bytes, the same logits where no token needed them, one clear line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gguf import GGUFReader

from ggsurgery.arch.asked import asked, surveyed
from ggsurgery.errors import ArchitectureError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.verify import verify
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare
from ggsurgery.tensors.parts import counts_experts

from ..fixtures import families, operate
from ..fixtures.base import base
from ..fixtures.network import Network

ROUTER = "ffn_gate_inp.weight"
#: Architectures whose experts are tried; the last one has groups of experts.
FAMILIES = (
    "qwen2moe",
    "qwen3moe",
    "qwen3next",
    "llama",
    "deepseek2",
    "glm4moe",
    "gpt-oss",
    "granitemoe",
    "olmoe",
    "lfm2moe",
    "gemma4",
    "ernie4_5-moe",
    "dots1",
    "llama4",
    "phimoe",
    "dbrx",
    "deepseek2 groups",
)


def recipe_of(arch):
    if arch == "deepseek2 groups":
        recipe = families.recipes()["deepseek2"]
        keys = {"expert_count": 8, "expert_group_count": 2, "expert_group_used_count": 1}
        return replace(recipe, keys=lambda a, n: recipe.keys(a, n) | keys)
    recipe = families.recipes().get(arch) or families.Recipe(arch)
    if arch in ("llama", "gemma4"):
        return replace(recipe, keys=lambda a, n: base(a, n, moe=True) | recipe.keys(a, n))
    return recipe


@pytest.fixture(scope="module", params=FAMILIES)
def network(request, tmp_path_factory):
    """A network whose last expert (of each group) no token ever chooses."""
    recipe = recipe_of(request.param)
    found = Network(recipe, tmp_path_factory.mktemp("experts"))
    tensors = found.tensors
    embedding = next(t for n, t in tensors.items() if n == "token_embd.weight")
    embedding[:, 0] = 30  # one direction that every state has
    for name, tensor in tensors.items():
        suffix = name.split(".", 2)[-1]
        count = tensor.shape[0]
        last = losers(found, count)
        if suffix == ROUTER:
            tensor[last] = 0
            tensor[last, 0] = -1000
        elif suffix.startswith("exp_probs_b"):
            tensor[last] = -10
        elif "norm.weight" in suffix and tensor.ndim == 1:
            tensor[0] = 1
    return found


def losers(network, count):
    groups = int(network.outline.keys.get("expert_group_count") or 1)
    return [(g + 1) * (count // groups) - 1 for g in range(groups)]


def mixtures(header):
    return [n for n in range(header.n_layers) if ROUTER in header.layer_tensors(n)]


def delete(source, out, experts):
    kept = ",".join(map(str, experts))
    header = read_header(source)
    one = step("keep_experts", experts={str(n): kept for n in mixtures(header)})
    with prepare(Recipe((one,)), [source]) as prepared:
        assert not prepared.faults
        assert not prepared.layout.computes
        prepared.write(out)
    return out


def test_an_expert_that_never_wins_changes_no_logit(network, tmp_path):
    source = network.write(f"{tmp_path.name}.gguf")
    count = read_header(source).get("{arch}.expert_count")
    kept = [e for e in range(count) if e not in losers(network, count)]
    out = delete(source, tmp_path / "out.gguf", kept)
    files = {"source": source, "out": out}
    logits = operate.run(files, network.recipe.n_tokens, gap=network.recipe.gap)
    for name, found in logits.items():
        assert not isinstance(found, str), f"{name}: {found}"
    assert np.ptp(logits["source"]) > 0.1
    assert operate.difference(logits["source"], logits["out"]) < 1e-5
    assert read_header(out).get("{arch}.expert_count") == len(kept)


def test_the_bytes_are_those_of_the_experts_that_stay(network, tmp_path):
    source = network.write(f"{tmp_path.name}.gguf")
    count = read_header(source).get("{arch}.expert_count")
    groups = len(losers(network, count))
    kept = [e for e in range(count) if e % (count // groups) != 0]
    out = delete(source, tmp_path / "out.gguf", kept)
    before = {t.name: t.data for t in GGUFReader(source).tensors}
    after = {t.name: t.data for t in GGUFReader(out).tensors}
    assert before.keys() == after.keys()
    cut = 0
    for name, data in before.items():
        whole = not counts_experts(name.split(".", 2)[-1])
        np.testing.assert_array_equal(after[name], data if whole else data[kept], name)
        cut += not whole
    assert cut >= 3 * len(mixtures(read_header(source)))


def test_deleting_none_leaves_every_tensor_as_it_is(network, tmp_path):
    source = network.write(f"{tmp_path.name}.gguf")
    count = read_header(source).get("{arch}.expert_count")
    out = delete(source, tmp_path / "out.gguf", range(count))
    before = {t.name: t.data for t in GGUFReader(source).tensors}
    for tensor in GGUFReader(out).tensors:
        np.testing.assert_array_equal(tensor.data, before[tensor.name], tensor.name)


def test_the_tensors_that_count_experts_are_those_of_the_loader():
    """Against the shapes that llama.cpp's own loaders ask for, architecture by architecture."""
    seen = 0
    for arch in surveyed():
        for pattern, entry in asked(arch).items():
            if not pattern.startswith("blk.") or not entry.shape or entry.shape == ("?",):
                continue
            suffix = pattern.removeprefix("blk.{}.")
            assert counts_experts(suffix) == (entry.shape[-1] == "experts"), (arch, pattern)
            seen += entry.shape[-1] == "experts"
    assert seen > 150


@pytest.fixture(scope="module")
def qwen3moe(tmp_path_factory):
    return Network(families.recipes()["qwen3moe"], tmp_path_factory.mktemp("m")).write("in.gguf")


@pytest.mark.parametrize(
    ("experts", "words"),
    [
        ({0: "0-2"}, "layer 1 would keep another number of experts than layer 0"),
        (dict.fromkeys(range(8), "0"), "fewer experts than the model needs"),
        (dict.fromkeys(range(8), "0-4"), "expert 4 does not exist"),
        ({8: "0-2"}, "layer 8 does not exist"),
        ({0: "0,0"}, "layer 0: expert 0 is named twice"),
        ({0: "x"}, "experts of layer 0"),
        ({}, "not a mapping from layers to experts"),
    ],
)
def test_bad_lists_are_refused(qwen3moe, experts, words):
    with pytest.raises((ArchitectureError, PlanError), match=words):
        prepare(Recipe((step("keep_experts", experts=experts),)), [qwen3moe])


def test_a_dense_model_is_refused(tmp_path):
    dense = Network(families.recipes()["qwen3"], tmp_path).write("in.gguf")
    one = step("keep_experts", experts={0: "0-2"})
    with pytest.raises(ArchitectureError, match="not a mixture of experts"):
        prepare(Recipe((one,)), [dense])


def test_a_router_in_another_order_is_found(qwen3moe, tmp_path):
    """Experts kept in another order are permuted together, so the logits stay."""
    out = delete(qwen3moe, tmp_path / "out.gguf", [2, 0, 3, 1])
    logits = operate.run({"source": qwen3moe, "out": out}, 40)
    assert operate.difference(logits["source"], logits["out"]) < 1e-5
    assert not [f for f in verify(read_header(out)) if f.severity == "error"]
