"""Removing key/value groups: the right bytes, the same logits where they wrote nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gguf import GGUFReader

from ggsurgery.arch.groups import groups
from ggsurgery.errors import ArchitectureError, GGSurgeryError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.verify import verify
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare

from ..fixtures import families, operate
from ..fixtures.base import base
from ..fixtures.network import Network

#: Tried: those that can lose groups, and words of the others' refusals.
TAKEN = (
    "llama",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "granite",
    "smollm3",
    "mistral3",
    "exaone",
    "minicpm",
    "seed_oss",
    "arcee",
    "qwen3moe",
    "hunyuan-dense",
)
REFUSED = {
    "qwen2": "llama.cpp expects attn_q.weight of another size",
    "phi3": "llama.cpp expects attn_",
    "refact": "the slopes of ALiBi",
    "minimax-m2": "the tensor is of all heads",
    "afmoe": "the tensor is of all heads",
    "gpt2": "llama.cpp expects attn_q.weight of another size",
    "mamba": "llama.cpp expects attn_q.weight of another size",
    "deepseek2": "llama.cpp expects attn_",
    "gemma2 of 46 layers": "the scale of attention",
    "falcon-h1": "",
}


def network(name, folder):
    """Four heads, two groups of key and value."""
    found = families.recipes().get(name) or families.Recipe(name)
    heads = {"attention.head_count": 4, "attention.head_count_kv": 2}
    more = {} if "attention.key_length" in found.keys(found.arch, found.n_layer) else heads
    recipe = replace(found, keys=lambda a, n: found.keys(a, n) | more)
    return Network(recipe, folder)


def remove(source, out, kept="1", layers="0-7", of=2):
    one = step("keep_kv_groups", groups={layers: kept}, of=of)
    with prepare(Recipe((one,)), [source]) as prepared:
        assert not prepared.faults
        prepared.write(out)
    return out


@pytest.mark.parametrize("name", TAKEN)
def test_a_group_that_writes_nothing_changes_no_logit(name, tmp_path):
    model = network(name, tmp_path)
    for tensor_name, tensor in model.tensors.items():
        if tensor_name.endswith(".attn_output.weight"):
            tensor[:, : tensor.shape[1] // 2] = 0
    source = model.write("in.gguf")
    before = groups(read_header(source))
    out = remove(source, tmp_path / "out.gguf")
    header = read_header(out)
    after = groups(header)
    assert (after.heads, after.kv_heads) == (before.heads // 2, before.kv_heads // 2)
    assert (after.key, after.value) == (before.key, before.value)
    assert header.get("{arch}.attention.key_length") == before.key
    assert not [f for f in verify(header) if f.severity == "error"]
    logits = operate.run({"in": source, "out": out}, 40)
    for which, found in logits.items():
        assert not isinstance(found, str), f"{which}: {found}"
    assert np.ptp(logits["in"]) > 0.1
    assert operate.difference(logits["in"], logits["out"]) < 2e-5


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_by_name(name, tmp_path):
    source = network(name, tmp_path).write("in.gguf")
    try:
        groups(read_header(source))
    except ArchitectureError as error:
        assert REFUSED[name] in str(error)
    else:
        assert not REFUSED[name]


def test_the_bytes_are_those_of_the_heads_that_stay(tmp_path):
    source = network("qwen3", tmp_path).write("in.gguf")
    out = remove(source, tmp_path / "out.gguf", "0")
    before = {t.name: t.data for t in GGUFReader(source).tensors}
    for tensor in GGUFReader(out).tensors:
        old, suffix = before[tensor.name], tensor.name.split(".", 2)[-1]
        if suffix.rpartition(".")[0] in ("attn_q", "attn_k", "attn_v"):
            old = old[: len(old) // 2]
        elif suffix == "attn_output.weight":
            old = old[:, : old.shape[1] // 2]
        np.testing.assert_array_equal(tensor.data, old, tensor.name)


@pytest.mark.parametrize(
    ("lists", "of", "words"),
    [
        ({"0-7": "2"}, 2, "key/value group 2 does not exist"),
        ({"0-7": "0"}, 3, "another number of key/value groups"),
        ({"0-6": "0"}, 2, "layer 7 would keep another number"),
        ({"0-7": "0,0"}, 2, "named twice"),
        ({"8": "0"}, 2, "layer 8 does not exist"),
    ],
)
def test_bad_lists_are_refused(lists, of, words, tmp_path):
    source = network("qwen3", tmp_path).write("in.gguf")
    with pytest.raises((ArchitectureError, PlanError), match=words):
        prepare(Recipe((step("keep_kv_groups", groups=lists, of=of),)), [source])


def test_two_steps_follow_each_other(tmp_path):
    recipe = families.recipes()["qwen3"]
    keys = {"attention.head_count": 8, "attention.head_count_kv": 4}
    model = Network(replace(recipe, keys=lambda a, n: base(a, n) | keys), tmp_path)
    source = model.write("in.gguf")
    first = remove(source, tmp_path / "a.gguf", "0,2,3", of=4)
    second = remove(first, tmp_path / "b.gguf", "0,2", of=3)
    once = remove(source, tmp_path / "c.gguf", "0,3", of=4)
    two, one = ({t.name: t.data for t in GGUFReader(p).tensors} for p in (second, once))
    assert two.keys() == one.keys()
    for name, data in two.items():
        np.testing.assert_array_equal(data, one[name], name)
    with pytest.raises(GGSurgeryError, match=r"unlike|another number"):
        remove(source, tmp_path / "d.gguf", "0", "0-3", of=4)
