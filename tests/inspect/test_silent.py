"""What llama.cpp runs otherwise than the file says: found here, and shown by its logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.verify import verify

from ..fixtures import families, operate
from ..fixtures.network import Network


def network(arch, folder, **keys):
    recipe = families.recipes()[arch]
    return Network(replace(recipe, keys=lambda a, n: recipe.keys(a, n) | keys), folder)


def errors(path):
    return [f for f in verify(read_header(path)) if f.severity == "error"]


def written(arch, folder, name, **keys):
    """A network of these keys with the tensors of the plain one."""
    plain = network(arch, folder)
    return plain.write_in_order(name, range(8), plain.outline.keys | keys)


def test_fewer_experts_in_some_layers(tmp_path):
    """The router's weights are those of two experts, of which one is summed."""
    used = [2, 2, 1, 2, 2, 1, 2, 2]
    plain = written("qwen3moe", tmp_path, "plain.gguf", expert_used_count=2)
    wrong = written("qwen3moe", tmp_path, "wrong.gguf", expert_used_count=used)
    assert not errors(plain)
    (found,) = errors(wrong)
    assert "gives 1 in layers 2,5, and llama.cpp selects 2 in all layers" in found.problem
    assert "left out of the sum" in found.problem
    logits = operate.run({"plain": plain, "wrong": wrong}, 40)
    assert not isinstance(logits["wrong"], str)  # it loads and runs
    assert operate.difference(logits["plain"], logits["wrong"]) > 1e-3


def test_more_experts_in_some_layers(tmp_path):
    used = [2, 2, 3, 2, 2, 2, 2, 2]
    wrong = written("qwen3moe", tmp_path, "wrong.gguf", expert_used_count=used)
    (found,) = errors(wrong)
    assert "gives 3 in layers 2" in found.problem and "aborts" in found.problem
    logits = operate.run({"wrong": wrong}, 40)
    assert isinstance(logits["wrong"], str)


@pytest.mark.parametrize("arch", ["nemotron_h_moe"])
def test_where_the_graph_takes_each_layer_s_number_it_is_fine(arch, tmp_path):
    used = [2, 2, 1, 2, 2, 1, 2, 2]
    assert not errors(written(arch, tmp_path, "in.gguf", expert_used_count=used))


def test_attention_in_front_of_no_network(tmp_path):
    """llama.cpp gives the logits of a model without the layer."""
    plain = network("deci", tmp_path)
    widths = [96] * 8
    widths[3] = 0
    for name in [n for n in plain.tensors if n.startswith("blk.3.ffn_")]:
        del plain.tensors[name]
    keys = plain.outline.keys | {"feed_forward_length": widths}
    wrong = plain.write_in_order("wrong.gguf", range(8), keys)
    (found,) = [f for f in errors(wrong) if "feed_forward_length" in f.where]
    assert "is 0 in layers 3, which have attention" in found.problem
    order = [0, 1, 2, 4, 5, 6, 7]
    without = plain.write_in_order("without.gguf", order, plain.reordered(order))
    logits = operate.run({"wrong": wrong, "without": without}, 40)
    assert np.array_equal(logits["wrong"], logits["without"])
