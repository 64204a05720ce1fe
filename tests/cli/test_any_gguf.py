"""Files that go with a model, files that are no GGUF: named, shown, edited, never mistaken."""

from __future__ import annotations

import ctypes
import os

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as V
from gguf import GGUFWriter

from ggsurgery.ggufio.header import read_header
from ggsurgery.runtime import worker

from .._command import call, error_line
from .._gguf import (
    HEADS,
    KV_HEADS,
    WIDTH,
    Raw,
    kv,
    kv_text,
    peer_metadata,
    peer_tensors,
    tiny_llama,
)


def write(path, architecture, kind, tensors, **strings):
    writer = GGUFWriter(path, architecture)
    if kind is not None:
        writer.add_type(kind)
    for key, value in strings.items():
        writer.add_string(key.replace("__", "."), value)
    if kind == "adapter":
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 16.0)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.full(shape, 0.01, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def mmproj(path):
    names = {"v.blk.0.attn_q.weight": (8, 8), "mm.0.weight": (8, 8), "v.patch_embd.weight": (8, 8)}
    return write(path, "clip", "mmproj", names, clip__projector_type="mlp")


def lora(path):
    width = WIDTH * KV_HEADS // HEADS
    shapes = {"blk.0.attn_k.weight.lora_a": (4, WIDTH), "blk.0.attn_k.weight.lora_b": (width, 4)}
    return write(path, "llama", "adapter", shapes, adapter__type="lora")


def control_vector(path):
    return write(path, "controlvector", None, {"direction.2": (8,), "direction.1": (8,)})


def imatrix(path):
    writer = GGUFWriter(path, "llama")
    writer.kv_data[0].pop("general.architecture")  # llama-imatrix writes none
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a.txt"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for end, shape in (("in_sum2", (1, 8)), ("counts", (1, 1))):
        writer.add_tensor(f"blk.0.ffn_up.weight.{end}", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def image_model(path):
    return write(path, "sd1", "model", {"model.diffusion.out.weight": (8, 8)})


KINDS = {
    mmproj: "an image or audio encoder (mmproj)",
    lora: "a LoRA adapter",
    control_vector: "a control vector",
    imatrix: "an importance matrix",
    image_model: "a GGUF file of another kind",
}


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def other(request, tmp_path):
    return request.param(tmp_path / "other.gguf"), KINDS[request.param]


def test_shown_and_verified(other):
    path, kind = other
    assert kind in call("inspect", path).out
    assert call("inspect", "--json", path).json["purpose"] == kind
    assert "general" in call("meta", "show", path).out
    said = call("verify", path).out
    assert f"{kind}, whole and consistent" in said
    assert "error" not in said


def test_entries_are_edited_and_tensors_stay(other, tmp_path):
    path, _ = other
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    call("meta", "set", "general.license", "mit", path, one)
    call("meta", "set", "general.quantization_version", "2", one, one.with_name("1b.gguf"))
    call("meta", "unset", "general.license", one.with_name("1b.gguf"), two)
    before, after = peer_metadata(path), peer_metadata(two)
    assert peer_metadata(one)["general.license"] == "mit"
    assert {k: v for k, v in after.items() if not k.startswith("ggsurgery.")} == before | {
        "general.quantization_version": 2
    }
    assert peer_tensors(two) == peer_tensors(path)
    assert list(peer_tensors(two)) == list(peer_tensors(path))


DELETE = ("delete", "--layer", "0")
PRUNE = ("prune", "--sparsity", "0.5")
QUANTIZE = ("quantize", "--type", "Q8_0")
REFUSED = [
    *((make, a) for make in (mmproj, lora, control_vector, imatrix) for a in (DELETE, PRUNE)),
    *((make, QUANTIZE) for make in (lora, control_vector, imatrix)),  # llama-quantize takes mmproj
]


@pytest.mark.parametrize(("make", "arguments"), REFUSED)
def test_surgery_says_what_the_file_is(tmp_path, make, arguments):
    path = make(tmp_path / "other.gguf")
    said = error_line(*arguments, path, tmp_path / "out.gguf")
    assert f"this file is {KINDS[make]}, not a language model" in said
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("make", [mmproj, lora, control_vector, imatrix])
def test_measuring_says_what_the_file_is(tmp_path, make):
    path = make(tmp_path / "other.gguf")
    text = tmp_path / "text.txt"
    text.write_text("words and words\n" * 200)
    said = call("perplexity", path, "--text", text, "--ctx", "64", code=1).err
    assert f"this file is {KINDS[make]}, not a language model" in said


def adapter_loads(model, path):
    from ggsurgery.runtime import binding, log

    llama = binding.llama()
    init = llama.llama_adapter_lora_init
    with log.capture() as lines:
        loaded = llama.llama_model_load_from_file(
            os.fsencode(model), llama.llama_model_default_params()
        )
        adapter = init(loaded, os.fsencode(path))
    assert loaded
    llama.llama_model_free(loaded)
    return bool(ctypes.cast(adapter, ctypes.c_void_p).value) if adapter else lines.errors()


def test_an_edited_adapter_is_loaded(tmp_path):
    model = tiny_llama(tmp_path / "model.gguf", 2)
    out = tmp_path / "out.gguf"
    call("meta", "set", "adapter.lora.alpha", "8", lora(tmp_path / "a.gguf"), out)
    assert peer_metadata(out)["adapter.lora.alpha"] == 8.0
    assert worker.run(adapter_loads, str(model), str(out)) is True


# -- no GGUF at all ---------------------------------------------------------------------------

POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 4368439584
"""


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (POINTER, "a git-lfs pointer of a file of 4,368,439,584 bytes, not the file. Fetch the"),
        (b"\n<!DOCTYPE html><html>" + b" " * 99, "a saved web page, not a GGUF file"),
        (b"Entry not found", "an error message of the download"),
        (b'{"error":"Invalid credentials in Authorization header"}', "a JSON text, not a GGUF"),
        (b"PK\3\4" + bytes(60), "a ZIP archive or a PyTorch checkpoint"),
        (bytes([64, 0, 0, 0, 0, 0, 0, 0]) + b'{"__metadata__":{}}' + bytes(60), "a safetensors"),
        (b"tjgg" + bytes(60), "a model in a format older than GGUF"),
        (b"\x1f\x8b\x08" + bytes(60), "a compressed file"),
        (bytes(4096), "a file of zeros"),
    ],
)
@pytest.mark.parametrize("arguments", [("inspect",), ("verify",), ("meta", "show")])
def test_what_is_no_gguf_is_named(tmp_path, head, what, arguments):
    path = tmp_path / "model.gguf"
    path.write_bytes(head)
    assert what in error_line(*arguments, path)


# -- leftovers of a split -----------------------------------------------------------------------


def split_entries(writer):
    writer.add_key_value("split.no", 0, V.UINT16)
    writer.add_key_value("split.count", 3, V.UINT16)
    writer.add_key_value("split.tensors.count", 20, V.INT32)


def loads(path):
    from ggsurgery.runtime.engine import Engine

    with Engine.open(path, n_ctx=8) as engine:
        return engine.n_vocab


def test_leftovers_of_a_split_are_mended(tmp_path):
    path = tiny_llama(tmp_path / "whole.gguf", 2, meta=split_entries)
    assert len(read_header(path).tensors) == 20
    said = call("verify", path, code=1).out
    assert "error: split.count: names 3 files, and this one holds all tensors" in said
    with pytest.raises(Exception, match="the file is complete, but its header names further files"):
        worker.run(loads, str(path))
    for number, arguments in enumerate(
        [
            ("meta", "unset", "split.count"),
            ("meta", "set", "general.license", "mit"),
            ("delete", "--layer", "1"),
        ]
    ):
        out = tmp_path / f"{number}.gguf"
        call(*arguments, path, out)
        assert not any(k.startswith("split.") for k in peer_metadata(out))
        call("verify", out)
        assert worker.run(loads, str(out)) == 64


def test_a_whole_file_of_an_unknown_split_is_mended_on_request(tmp_path):
    def entries(writer):
        writer.add_key_value("split.no", 0, V.UINT16)
        writer.add_key_value("split.count", 3, V.UINT16)

    path = tiny_llama(tmp_path / "whole.gguf", 2, meta=entries)
    assert "ggsurgery meta unset split.count" in error_line("inspect", path)
    out = tmp_path / "out.gguf"
    call("meta", "unset", "split.count", path, out)
    assert peer_tensors(out) == peer_tensors(path)
    assert worker.run(loads, str(out)) == 64


# -- the other byte order ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("perplexity", "{}", "--text", "{text}", "--ctx", "64"),
        ("quantize", "--type", "Q8_0", "{}", "{out}"),
        ("imatrix", "collect", "--text", "{text}", "{}", "{out}"),
        ("scan", "{}", "--text", "{text}", "--ctx", "64"),
        ("influence", "{}", "--text", "{text}", "--ctx", "64"),
    ],
    ids=lambda a: a[0],
)
def test_big_endian_input_of_llama_cpp(tmp_path, arguments):
    path = tiny_llama(tmp_path / "big.gguf", 2, big_endian=True)
    text = tmp_path / "text.txt"
    text.write_text("words and words\n" * 400)
    names = {"{}": path, "{text}": text, "{out}": tmp_path / "out.gguf"}
    said = call(*(names.get(a, a) for a in arguments), code=1).err
    assert "llama.cpp runs files in the byte order of this machine only" in said
    assert "gguf-convert-endian" in said


# -- tensors dropped ----------------------------------------------------------------------------


def test_a_tensor_is_dropped(tmp_path):
    model = tiny_llama(tmp_path / "in.gguf", 3, tied=False)
    out = tmp_path / "out.gguf"
    said = call("meta", "drop-tensor", "output.weight", model, out)
    assert "1 tensor(s) dropped: output.weight" in said.err
    left = peer_tensors(model)
    del left["output.weight"]
    assert peer_tensors(out) == left
    assert peer_metadata(out)["general.name"] == peer_metadata(model)["general.name"]
    call("verify", out)
    assert worker.run(loads, str(out)) == 64  # tied: the embedding serves as output
    again = tmp_path / "again.gguf"
    call("replay", out, model, again)
    assert again.read_bytes() == out.read_bytes()


def test_tensors_are_dropped_by_a_pattern_and_in_recipes(tmp_path):
    model = tiny_llama(tmp_path / "in.gguf", 3)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("operations: [{delete: 0}, {drop_tensor: 'blk.*.attn_q.weight'}]\n")
    call("apply", recipe, model, tmp_path / "out.gguf")
    names = list(peer_tensors(tmp_path / "out.gguf"))
    assert len(names) == 2 + 2 * 8
    assert not any("attn_q" in n for n in names)
    shown = call("meta", "drop-tensor", "blk.*.attn_q.weight", "--dry-run", model, "x.gguf").out
    assert "3 tensor(s) dropped" in shown


def test_drops_that_cannot_be(tmp_path):
    model = tiny_llama(tmp_path / "in.gguf", 3)
    out = tmp_path / "out.gguf"
    said = error_line("meta", "drop-tensor", "blk.0.attn_q.weigth", model, out)
    assert "no tensor 'blk.0.attn_q.weigth' to drop. Did you mean blk.0.attn_q.weight?" in said
    recipe = tmp_path / "r.yaml"
    recipe.write_text("operations: [{drop_tensor: output_norm.weight}, {delete: 0}]\n")
    assert "drop_tensor works on the finished stack" in error_line("apply", recipe, model, out)
    warned = call("meta", "drop-tensor", "output_norm.weight", model, out).err
    assert "warning: output_norm.weight: missing in a llama model" in warned


def test_an_empty_list_and_no_architecture(tmp_path):
    path = Raw([kv_text("a.b", "x"), kv("a.c", V.UINT32, bytes(4))], []).write(tmp_path / "a.gguf")
    call("meta", "set", "a.b", "y", path, tmp_path / "b.gguf")
    assert read_header(tmp_path / "b.gguf").get("a.b") == "y"
    assert "another kind" in call("inspect", tmp_path / "b.gguf").out
