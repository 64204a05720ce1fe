"""Two files compared by content."""

from __future__ import annotations

import pytest
from gguf import GGMLQuantizationType as T

from ggsurgery.ggufio.reader import Source
from ggsurgery.inspect.difference import compare
from ggsurgery.plan.recipe import step

from .._gguf import Raw, kv_text, kv_u32, tensor, tiny_llama
from ..surgery.test_prepare import operate


def difference(a, b):
    with Source(a) as one, Source(b) as other:
        return compare(one, other)


@pytest.fixture
def model(tmp_path):
    return tiny_llama(tmp_path / "in.gguf", 5)


def test_a_file_with_itself(model):
    found = difference(model, model)
    assert found.same
    assert [o.same_as for o in found.layers] == [(0,), (1,), (2,), (3,), (4,)]
    assert found.to_json()["same"] is True


def test_one_changed_byte(tmp_path, model):
    data = bytearray(model.read_bytes())
    with Source(model) as source:
        t = source.header.by_name["blk.3.ffn_up.weight"]
        data[source.position(t) + t.nbytes - 1] ^= 1
    (tmp_path / "b.gguf").write_bytes(data)
    found = difference(model, tmp_path / "b.gguf")
    assert [(t.name, t.what) for t in found.tensors] == [("blk.3.ffn_up.weight", "values")]
    assert [o.same_as for o in found.layers] == [(0,), (1,), (2,), (), (4,)]
    assert not found.metadata


def test_moved_and_copied_layers(tmp_path, model):
    out = operate(model, tmp_path / "out.gguf", step("keep", layers="4,0,0,2"))
    found = difference(model, out)
    assert [o.same_as for o in found.layers] == [(4,), (0,), (0,), (2,)]
    back = difference(out, model)
    assert [o.same_as for o in back.layers] == [(1, 2), (), (3,), (), (0,)]
    assert {t.what for t in back.tensors} == {"added", "values"}
    assert {c.key: c.row for c in found.metadata}["llama.block_count"][1:] == ("5", "4")


def test_added_removed_shape_and_type(tmp_path):
    def file(name, *infos):
        return Raw([kv_text("general.architecture", "x")], [*infos], bytes(512)).write(
            tmp_path / name
        )

    a = file("a", tensor("same"), tensor("gone", (8,), 0, 128), tensor("t", (32,), T.F16, 160))
    b = file("b", tensor("same", (16, 2)), tensor("new", (8,), 0, 128), tensor("t", (32,), 0, 160))
    found = {(t.name, t.what, t.before, t.after) for t in difference(a, b).tensors}
    assert found == {
        ("gone", "removed", "f32 [8]", None),
        ("new", "added", None, "f32 [8]"),
        ("same", "shape", "f32 [32]", "f32 [16, 2]"),
        ("t", "type", "f16 [32]", "f32 [32]"),
    }


def test_the_byte_order_alone_is_no_change_of_an_entry(tmp_path, model):
    big = tiny_llama(tmp_path / "big.gguf", 5, big_endian=True)
    assert difference(model, big).metadata == ()
    out = operate(big, tmp_path / "out.gguf", step("swap", layers="0,1"))
    assert "general.size_label" in {c.key for c in difference(model, out).metadata}  # 300K → 230K
    again = operate(out, tmp_path / "again.gguf", step("swap", layers="0,1"))
    assert "general.size_label" not in {c.key for c in difference(out, again).metadata}


def test_a_lie_about_the_layer_count_costs_nothing(tmp_path):
    kvs = [kv_text("general.architecture", "llama"), kv_u32("llama.block_count", 2**32 - 1)]
    path = Raw(kvs, [tensor("blk.3.a")]).write(tmp_path / "a.gguf")
    assert [o.layer for o in difference(path, path).layers] == [3]
