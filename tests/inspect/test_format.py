"""What ggml and llama.cpp's file mapping refuse, `verify` names; what they take, it takes."""

from __future__ import annotations

import pytest
from gguf import GGUFReader, GGUFWriter

from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.types import REMOVED_TYPES, block_size, type_name
from ggsurgery.inspect.format import format_findings
from ggsurgery.inspect.verify import verify
from ggsurgery.plan.recipe import step

from .._gguf import Raw, tensor, tiny_llama
from ..fixtures import llama
from ..fuzz.against_ggml import N_TYPES, Ggml
from ..surgery.test_prepare import operate

BEYOND = 5  # ids behind the last type of ggml


@pytest.fixture(scope="module")
def ggml():
    return Ggml()


@pytest.mark.parametrize("kind", range(N_TYPES + BEYOND))
def test_every_type_id_has_the_verdict_and_the_size_of_ggml(tmp_path, ggml, kind):
    block, size = ggml.sizes.get(kind, (256, 32))
    assert block_size(kind) == ggml.sizes.get(kind)
    second = -(-size // 32) * 32
    infos = [tensor("a", (block,), kind), tensor("b", (block,), kind, second)]
    path = Raw(tensors=infos, data=bytes(2 * second)).write(tmp_path / "a.gguf")
    found = [f for f in format_findings(read_header(path)) if f.severity == "error"]
    assert ggml.takes(path) == (not found)
    if kind in ggml.sizes:
        assert ggml.base.ggml_type_name(kind).decode().lower() == type_name(kind)
    else:
        assert {f.where for f in found} == {"a", "b"}
        assert str(kind) in found[0].problem
        assert ("removed from ggml" in found[0].problem) == (kind in REMOVED_TYPES)


def test_rows_hold_whole_blocks(tmp_path, ggml):
    for kind, (block, size) in ggml.sizes.items():
        if block > 1:
            info = tensor("a", (block + block // 2,), kind)
            path = Raw(tensors=[info], data=bytes(2 * size)).write(tmp_path / "a.gguf")
            assert not ggml.takes(path)
            with pytest.raises(Exception, match=f"impossible shape for {type_name(kind)}"):
                read_header(path)


def test_a_tensor_without_dimensions_is_one_number(tmp_path, ggml):
    path = Raw(tensors=[tensor("a", ())], data=bytes(32)).write(tmp_path / "a.gguf")
    header = read_header(path)
    assert ggml.takes(path)
    assert (header.tensors[0].shape, header.tensors[0].nbytes) == ((1,), 4)
    assert not list(format_findings(header))


def realigned(model, path, alignment, *, more=0):
    """The model with another alignment, and `more` letters in its name to move the data."""
    reader, writer = GGUFReader(model), GGUFWriter(path, "llama")
    writer.data_alignment = alignment
    writer.add_custom_alignment(alignment)
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            value = field.contents()
            if key == "general.name":
                value += "x" * more
            writer.add_key_value(key, value, field.types[0])
    for t in reader.tensors:
        writer.add_tensor(t.name, t.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [8, 16, 32, 64])
@pytest.mark.parametrize("more", [0, 8, 16, 24])
def test_alignment_below_that_of_ggml(tmp_path, alignment, more):
    model = tiny_llama(tmp_path / "in.gguf", 2)
    path = realigned(model, tmp_path / "a.gguf", alignment, more=more)
    header = read_header(path)
    (found,) = [f for f in verify(header) if f.where == "general.alignment"] or [None]
    severity = found.severity if found else ""
    fits = header.data_offset[0] % 32 == 0
    assert severity == ("" if alignment >= 32 else "warning" if fits else "error")
    assert (llama.refusal(path) == "") == (severity != "error")
    if severity == "error":
        assert f"is {alignment} and the tensor data begins at byte" in found.problem
        assert "a multiple of 32" in found.problem
        mended = operate(path, tmp_path / "b.gguf", step("keep", layers="0-1"))
        assert verify(read_header(mended)) == []
        assert llama.refusal(mended) == ""


def test_big_endian_is_a_warning(tmp_path):
    (found,) = verify(read_header(tiny_llama(tmp_path / "a.gguf", big_endian=True)))
    assert (found.severity, found.where) == ("warning", "file header")
    assert llama.refusal(tmp_path / "a.gguf") != ""
