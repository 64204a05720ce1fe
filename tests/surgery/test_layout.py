"""What the layout refuses and where it puts things; what execution checks afterwards."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from ggsurgery.errors import FormatError, GGSurgeryError, OutputError
from ggsurgery.ggufio.reader import Source
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery import write as module
from ggsurgery.surgery.layout import Copy
from ggsurgery.surgery.prepare import prepare

from .._gguf import Raw, big_llama, kv_text, kv_u32, tensor, tiny_llama
from .test_prepare import operate


def model(path, n_layers, names):
    kvs = [kv_text("general.architecture", "llama"), kv_u32("llama.block_count", n_layers)]
    infos = [tensor(n, (8,), 0, 32 * i) for i, n in enumerate(names)]
    return Raw(kvs, infos, bytes(32 * len(names))).write(path)


@pytest.mark.parametrize(
    ("n_layers", "names", "message"),
    [
        (1, ["blk.0.a", "blk.1.a"], r"blk\.1\.a: tensor of a layer that the header does not count"),
        (3, ["blk.0.a", "blk.2.a"], r"blk\.1\.\*: the layer has no tensors"),
        (5000, ["blk.0.a"], r"no usable layer count: expected an integer from 0 to 4096"),
    ],
)
def test_layers_and_count_must_agree(tmp_path, n_layers, names, message):
    source = model(tmp_path / "in.gguf", n_layers, names)
    with pytest.raises(FormatError, match=rf"in\.gguf: .*{message}"):
        operate(source, tmp_path / "out.gguf", step("keep", layers="0-1" if n_layers > 1 else "0"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf"]


@pytest.mark.parametrize("kvs", [[], [kv_text("general.architecture", "llama")]])
def test_files_that_are_no_language_models(tmp_path, kvs):
    source = Raw(kvs).write(tmp_path / "in.gguf")
    with pytest.raises(FormatError, match=r"no architecture|no usable layer count"):
        operate(source, tmp_path / "out.gguf", step("keep", layers="0"))


def test_the_layout_is_the_file(tmp_path):
    source = tiny_llama(tmp_path / "in.gguf", 4)
    with prepare(Recipe((step("keep", layers="2,0,0"),)), [source]) as operation:
        layout = operation.layout
        operation.write(tmp_path / "out.gguf")
    with Source(tmp_path / "out.gguf") as made:
        assert made.header.tensors == layout.tensor_infos()
        assert made.header.file_size == (layout.n_bytes,)
        assert made.header.n_parameters == layout.n_parameters
        assert {k: v.value for k, v in made.header.metadata.items()} == {
            k: v.value for k, v in layout.metadata.items()
        }
    assert all(isinstance(p.job, Copy) for p in layout.pieces)


def test_big_copies_keep_their_place_within_a_block(tmp_path):
    """So that file systems can share extents; the header is filled up for that."""
    source = big_llama(tmp_path / "in.gguf", 4, 1 << 20)
    out = operate(source, tmp_path / "out.gguf", step("delete", layer="0"))
    with Source(source) as a, Source(out) as b:
        at, made_at = (
            {f.position(t) % 4096 for t in f.header.tensors if t.nbytes >= 4096} for f in (a, b)
        )
        assert made_at == at and len(at) == 1  # though small tensors stand in front of them
    again = operate(out, tmp_path / "again.gguf", step("delete", layer="0"))
    with Source(again) as made:
        assert len(made.header.metadata.get("ggsurgery.padding", "")) < 4096 + 8


def test_the_written_header_is_read_back(tmp_path, monkeypatch):
    source = tiny_llama(tmp_path / "in.gguf", 2)
    monkeypatch.setattr(module, "_write", lambda *_: None)
    real = module.write_all

    def damaged(target, data, to):
        real(target, bytes(data).replace(b"attn_q", b"attn_x"), to)

    monkeypatch.setattr(module, "write_all", damaged)
    with pytest.raises(OutputError, match="the written header differs from the plan; nothing was"):
        operate(source, tmp_path / "out.gguf", step("keep", layers="0"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf"]


def test_a_source_cut_while_it_is_read(tmp_path):
    source = big_llama(tmp_path / "in.gguf", 2, 1 << 20)
    with prepare(Recipe((step("swap", layers="0,1"),)), [source]) as operation:
        with source.open("r+b") as file:
            file.truncate(1 << 20)
        with pytest.raises((OSError, GGSurgeryError), match="changed while it was read"):
            operation.write(tmp_path / "out.gguf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf"]


def test_progress_counts_every_tensor_byte(tmp_path):
    source, seen = tiny_llama(tmp_path / "in.gguf", 3), []
    with prepare(Recipe((step("delete", layer="1"),)), [source]) as operation:
        operation.write(
            tmp_path / "out.gguf", stages=lambda _name, _total: nullcontext(seen.append)
        )
        assert sum(seen) == sum(t.nbytes for t in operation.layout.tensor_infos())
