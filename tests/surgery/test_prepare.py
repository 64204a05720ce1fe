"""Whole operations on tiny files, judged by gguf-py's reader: the right bytes at every place."""

from __future__ import annotations

import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter

from ggsurgery.errors import PlanError
from ggsurgery.ggufio.reader import Source
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare

from .._gguf import (
    Raw,
    kv_text,
    kv_u32,
    layer_bytes,
    peer_metadata,
    peer_tensors,
    tensor,
    tiny_llama,
)

N = 6
ORDERS = {
    "delete": ([step("delete", layer="1,3-4")], [0, 2, 5]),
    "delete ends": ([step("delete", layer="0,5")], [1, 2, 3, 4]),
    "swap": ([step("swap", layers="1,4")], [0, 4, 2, 3, 1, 5]),
    "move": ([step("move", layer="4", to=1)], [0, 4, 1, 2, 3, 5]),
    "move two": ([step("move", layer="0,2", to=3)], [1, 3, 4, 0, 2, 5]),
    "duplicate": ([step("duplicate", layer="2-3")], [0, 1, 2, 3, 2, 3, 4, 5]),
    "duplicate far, twice": (
        [step("duplicate", layer="5", to=0, times=2)],
        [5, 5, 0, 1, 2, 3, 4, 5],
    ),
    "keep": ([step("keep", layers="5,0,0-2")], [5, 0, 0, 1, 2]),
    "chain": (
        [step("delete", layer="0"), step("swap", layers="0,1"), step("duplicate", layer="4")],
        [2, 1, 3, 4, 5, 5],
    ),
    "nothing": ([], [0, 1, 2, 3, 4, 5]),
}


def operate(source, out, *steps, name=None, **options):
    with prepare(Recipe(tuple(steps), name, tuple(options.items())), [source]) as operation:
        operation.write(out)
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "in.gguf", N, kind=T.Q8_0, tied=False)


@pytest.mark.parametrize("case", ORDERS)
def test_every_layer_has_the_bytes_of_its_origin(tmp_path, model, case):
    steps, order = ORDERS[case]
    out = operate(model, tmp_path / "out.gguf", *steps)
    before, after = peer_tensors(model), peer_tensors(out)
    expected = {n: t for n, t in before.items() if not n.startswith("blk.")}
    for new, old in enumerate(order):
        expected |= {f"blk.{new}.{s}": t for s, t in layer_bytes(model, old).items()}
    assert after == expected
    assert peer_metadata(out)["llama.block_count"] == len(order)


def test_other_metadata_stays(tmp_path, model):
    before = peer_metadata(model)
    after = peer_metadata(operate(model, tmp_path / "out.gguf", step("delete", layer="1")))
    changed = {"general.name", "general.size_label", "llama.block_count"}
    assert {k: v for k, v in after.items() if k in before and k not in changed} == {
        k: v for k, v in before.items() if k not in changed
    }
    assert [k for k in after if k not in before and not k.startswith("ggsurgery.")] == []


def test_arrays_of_one_entry_a_layer_move_along(tmp_path):
    def meta(writer: GGUFWriter) -> None:
        writer.add_array("llama.attention.sliding_window_pattern", [True, False, True, False])
        writer.add_array("llama.expert_used_count", [0, 1, 2, 3])
        writer.add_array("tokenizer.ggml.scores", [0.0, 0.5, 1.0, 1.5])

    source = tiny_llama(tmp_path / "in.gguf", 4, meta=meta)
    found = peer_metadata(operate(source, tmp_path / "out.gguf", step("keep", layers="3,0,2,2,1")))
    assert found["llama.expert_used_count"] == [3, 0, 2, 2, 1]
    assert found["llama.attention.sliding_window_pattern"] == [False, True, True, True, False]
    assert found["tokenizer.ggml.scores"] == [0.0, 0.5, 1.0, 1.5]  # four tokens, not four layers


def test_big_endian_stays_big_endian(tmp_path):
    source = tiny_llama(tmp_path / "in.gguf", 3, big_endian=True)
    out = operate(source, tmp_path / "out.gguf", step("delete", layer="0"))
    with Source(source) as a, Source(out) as b:
        assert b.header.order == ">"
        assert b.header.n_layers == 2
        assert b.header.get("ggsurgery.sources") == ["in.gguf"]
        for new, old in ((0, 1), (1, 2)):
            for suffix, t in a.header.layer_tensors(old).items():
                assert bytes(b.data(b.header.layer_tensors(new)[suffix])) == bytes(a.data(t))


def test_split_input_gives_one_file(tmp_path):
    whole = tiny_llama(tmp_path / "whole.gguf", 5)
    first = tiny_llama(tmp_path / "in.gguf", 5, split=7)
    steps = (step("move", layer="4", to=0),)
    a = operate(whole, tmp_path / "a.gguf", *steps)
    b = operate(first, tmp_path / "b.gguf", *steps)
    assert peer_tensors(a) == peer_tensors(b)
    assert not [k for k in peer_metadata(b) if k.startswith("split.")]


def test_unknown_types_are_copied_as_bytes(tmp_path):
    """Also where the file's end is not padded, and the last tensor moves to the middle."""
    names = ("blk.0.x", "blk.1.x", "blk.2.x")
    infos = [tensor(n, (9,), 999, 64 * i) for i, n in enumerate(names)]
    kvs = [kv_text("general.architecture", "llama"), kv_u32("llama.block_count", 3)]
    data = b"first".ljust(64, b"\0") + b"second".ljust(64, b"\0") + b"third"
    source = Raw(kvs, infos, data).write(tmp_path / "in.gguf")
    for order in ("2,0,1", "0-2", "2", "2,2"):
        out = operate(source, tmp_path / f"{order}.gguf", step("keep", layers=order))
        with Source(out) as made:
            words = [bytes(made.data(t)).rstrip(b"\0") for t in made.header.tensors]
        expected = {"2,0,1": "third first second", "0-2": "first second third"}.get(
            order, " ".join(["third"] * len(order.split(",")))
        )
        assert b" ".join(words).decode() == expected


@pytest.mark.parametrize("alignment", [8, 256])
def test_the_alignment_stays_but_not_below_that_of_ggml(tmp_path, alignment):
    kvs = [
        kv_text("general.architecture", "llama"),
        kv_u32("general.alignment", alignment),
        kv_u32("llama.block_count", 2),
    ]
    infos = [tensor(f"blk.{i}.x", (6,), T.F32, 256 * i) for i in range(2)]
    raw = Raw(kvs, infos, bytes(range(256)) * 2, alignment=alignment)
    out = operate(raw.write(tmp_path / "in.gguf"), tmp_path / "o.gguf", step("swap", layers="0,1"))
    with Source(out) as made:
        assert made.header.alignment == max(32, alignment)
        assert bytes(made.data(made.header.tensors[1])) == bytes(range(24))
    assert len(peer_tensors(out)) == 2


def test_the_same_recipe_gives_the_same_bytes_whatever_the_order_in_the_source(tmp_path):
    names = ["output_norm.weight", "blk.0.a", "blk.0.b", "blk.1.a", "blk.1.b"]
    outs = []
    for number, order in enumerate((names, names[::-1])):
        kvs = [kv_text("general.architecture", "llama"), kv_u32("llama.block_count", 2)]
        infos = [tensor(n, (8,), T.F32, 32 * i) for i, n in enumerate(order)]
        data = b"".join(bytes([names.index(n)]) * 32 for n in order)
        folder = tmp_path / str(number)
        folder.mkdir()
        source = Raw(kvs, infos, data).write(folder / "in.gguf")
        outs.append(operate(source, folder / "out.gguf", step("swap", layers="0,1")))
    assert list(peer_tensors(outs[0]).items()) == list(peer_tensors(outs[1]).items())


def test_a_source_can_be_operated_on_again_and_again(tmp_path, model):
    path, order = model, list(range(N))
    for number in range(3):
        path = operate(path, tmp_path / f"{number}.gguf", step("delete", layer="1"))
        del order[1]
    for new, old in enumerate(order):
        assert layer_bytes(path, new) == layer_bytes(model, old)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "red"}, r"unknown option 'colour'; known: .*drop_mtp"),
        ({"drop_mtp": "yes"}, r"option drop_mtp: expected bool, found 'yes'"),
    ],
)
def test_options_are_checked(tmp_path, model, options, message):
    with pytest.raises(PlanError, match=message):
        operate(model, tmp_path / "out.gguf", step("delete", layer="1"), **options)
    assert not list(tmp_path.iterdir())
