"""What `verify` finds in files that load but do not mean what they should."""

from __future__ import annotations

import pytest
from gguf import GGUFValueType as V

from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.verify import verify
from ggsurgery.plan.recipe import step

from .._gguf import Raw, kv_array, kv_text, kv_u32, tensor, text, tiny_llama
from .._needs import needs_smollm2
from ..surgery.test_prepare import operate


def findings(path):
    return [(f.severity, f.where, f.problem) for f in verify(read_header(path))]


def of_stub(path):
    """Of a file whose layers have one tensor each: without those that they lack."""
    lacking = "missing: llama.cpp does not load a layer of llama without it"
    found = findings(path)
    assert any(f[2] == lacking for f in found)
    return [f for f in found if f[2] != lacking]


def test_whole_files_have_no_findings(tmp_path):
    model = tiny_llama(tmp_path / "in.gguf", 4)
    assert findings(model) == []
    out = operate(model, tmp_path / "out.gguf", step("keep", layers="3,1,1"))
    assert findings(out) == []
    split = tiny_llama(tmp_path / "split.gguf", 4, split=5)
    assert findings(split) == []


NORM = tensor("output_norm.weight", (8,), 0, 384)
NORM_AFTER_64 = tensor("output_norm.weight", (8,), 0, 192)
EMBEDDING = tensor("token_embd.weight", (8, 4), 0, 64)
UP = "ffn_up.weight"
FOUR = b"".join(text(t) for t in "abcd")


def model(tmp_path, *more, drop=(), infos=None, n_layers=2):
    kvs = {
        "general.architecture": kv_text("general.architecture", "llama"),
        "llama.block_count": kv_u32("llama.block_count", n_layers),
        "tokenizer.ggml.tokens": kv_array("tokenizer.ggml.tokens", V.STRING, 4, FOUR),
    }
    names = ["token_embd.weight", "blk.0.ffn_up.weight", "blk.1.ffn_up.weight"]
    infos = infos or [tensor(n, (8, 4), 0, 128 * i) for i, n in enumerate(names)]
    infos = [*infos, NORM_AFTER_64 if EMBEDDING in infos else NORM]
    entries = [v for k, v in kvs.items() if k not in drop] + list(more)
    return Raw(entries, infos, bytes(512)).write(tmp_path / "a.gguf")


def test_the_plain_case_is_clean(tmp_path):
    assert of_stub(model(tmp_path)) == []


BPE = kv_text("tokenizer.ggml.model", "gpt2")


@pytest.mark.parametrize(
    ("entry", "where", "problem"),
    [
        (
            kv_array("tokenizer.ggml.scores", V.FLOAT32, 3, bytes(12)),
            "scores",
            "has 3 entries for 4",
        ),
        (
            kv_array("tokenizer.ggml.token_type", V.INT32, 5, bytes(20)),
            "token_type",
            "has 5 entries",
        ),
        (kv_u32("tokenizer.ggml.eos_token_id", 4), "eos_token_id", "is 4, the vocabulary has 4"),
        (BPE, "merges", "missing in a BPE vocabulary"),
        (kv_u32("llama.vocab_size", 5), "vocab_size", "says 5, the vocabulary has 4"),
    ],
)
def test_tokenizer(tmp_path, entry, where, problem):
    ((_, found_where, found),) = of_stub(model(tmp_path, entry))
    assert found_where.endswith(where)
    assert problem in found


def test_embedding_of_another_vocabulary(tmp_path):
    infos = [tensor("token_embd.weight", (8, 5)), tensor(f"blk.0.{UP}", (8,), 0, 160)]
    found = findings(model(tmp_path, infos=infos, n_layers=1))
    assert ("error", "token_embd.weight", "has 5 rows for 4 tokens") in found


def test_layers_that_are_missing_or_too_many(tmp_path):
    infos = [tensor(f"blk.0.{UP}", (8,), 0, 0), tensor(f"blk.3.{UP}", (8,), 0, 32), EMBEDDING]
    found = findings(model(tmp_path, infos=infos))
    assert ("error", "blk.1.*", "the layer has no tensors") in found
    assert ("error", "blk.3.*", "behind the last layer: block_count is 2") in found


def test_gaps_and_order(tmp_path):
    infos = [tensor(f"blk.0.{UP}", (8,), 0, 32), tensor(f"blk.1.{UP}", (8,), 0, 0), EMBEDDING]
    found = of_stub(model(tmp_path, infos=infos))
    assert found[0][:2] == ("error", f"blk.0.{UP}")
    assert "is at offset 32, llama.cpp expects 0" in found[0][2]
    mended = operate(tmp_path / "a.gguf", tmp_path / "b.gguf", step("keep", layers="0-1"))
    assert of_stub(mended) == []


def test_arrays_that_pruning_left_too_long(tmp_path):
    entry = kv_array("llama.attention.head_count_kv", V.INT32, 3, bytes(12))
    assert any(
        w == "llama.attention.head_count_kv" and "has 3 entries for 2 layers" in p
        for _, w, p in findings(model(tmp_path, entry))
    )


def test_an_unknown_architecture_is_a_warning(tmp_path):
    infos = [tensor("blk.0.a", (8,), 0, 0), tensor("blk.1.a", (8,), 0, 32), EMBEDDING]
    entry = kv_text("general.architecture", "novel")
    more = kv_u32("novel.block_count", 2)
    found = findings(model(tmp_path, entry, more, drop=("general.architecture",), infos=infos))
    assert {s for s, _, _ in found} == {"warning"}
    assert len(found) == 1


def test_no_architecture(tmp_path):
    found = findings(model(tmp_path, drop=("general.architecture",)))
    assert ("error", "general.architecture", "missing") in found


def test_tensors_that_llama_cpp_will_look_for(tmp_path):
    names = ["blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "blk.1.ffn_up.weight"]
    names += ["blk.2.ffn_down.weight", "blk.2.ffn_up.weight", "blk.2.ffn_up.bias"]
    infos = [tensor(n, (8,), 0, 32 * i) for i, n in enumerate(names)]
    found = findings(model(tmp_path, infos=infos, n_layers=3))
    assert ("error", "token_embd.weight", "missing in a llama model") in found
    lonely = "missing, 2 other layers of its kind have it"
    assert ("error", "blk.1.ffn_down.weight", lonely) in found
    assert not [f for f in found if "bias" in f[1]]  # one layer with a bias proves nothing


def test_tensors_that_llama_cpp_does_not_use(tmp_path):
    infos = [tensor("token_embd.weight", (8, 4)), tensor("blk.0.odd.weight", (8,), 0, 128)]
    infos.append(tensor("odd.weight", (8,), 0, 160))
    (found,) = [f for f in findings(model(tmp_path, infos=infos, n_layers=1)) if f[0] == "warning"]
    assert found[1] == "blk.0.odd.weight and 1 more"
    assert "neither llama.cpp nor the package gguf has such a tensor in llama" in found[2]


def test_the_model_that_everybody_has(tmp_path):
    assert findings(needs_smollm2()) == []


def test_a_model_without_layers(tmp_path):
    kvs = [kv_text("general.architecture", "gemma3n"), kv_u32("gemma3n.block_count", 0)]
    table = tensor("per_layer_token_embd.weight", (32, 1))
    found = findings(Raw(kvs, [table]).write(tmp_path / "a.gguf"))
    assert ("error", "token_embd.weight", "missing in a gemma3n model") in found
