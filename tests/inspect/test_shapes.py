"""Keys that contradict the tensors: llama.cpp refuses the file, `verify` names both."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from gguf.constants import GGMLQuantizationType

from ggsurgery.cli import cli
from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.shapes import shape_findings
from ggsurgery.inspect.verify import verify

from .._shapes import TINY, TOKENS, write_shapes
from ..fixtures import llama, make, survey
from ..fixtures.base import ARCHITECTURES, base
from .test_expected import built, found, write

ARRAY = [2, 2, 2, 2, 2, 2, 1, 2]

#: key, new value → the tensor that shows it, and words of the finding
EDITS = {
    "heads": ("attention.head_count", 4, "blk.0.attn_k.weight", "head_count_kv = 2"),
    "KV heads": ("attention.head_count_kv", 1, "blk.0.attn_k.weight", "head_count_kv = 1"),
    "width": ("embedding_length", 80, "token_embd.weight", "embedding_length = 80"),
    "feed forward": ("feed_forward_length", 128, "blk.0.ffn_gate.weight", "forward_length = 128"),
    "key length": ("attention.key_length", 64, "blk.0.attn_q.weight", "key_length = 64"),
    "value length": ("attention.value_length", 64, "blk.0.attn_v.weight", "value_length = 64"),
    "a feed-forward array": (
        "feed_forward_length",
        [64] + [96] * 7,
        "blk.0.ffn_gate.weight",
        "forward_length = 64",
    ),
}


def edited(arch, tmp_path, **keys):
    """The model that llama.cpp builds of the base keys, under other keys."""
    outline = built(arch)
    header = make.header(replace(outline, keys=outline.keys | keys))
    return write(tmp_path / "a.gguf", header)


@pytest.mark.parametrize("case", EDITS)
@pytest.mark.parametrize("arch", ["qwen3", "gemma3", "llama"])
def test_a_key_that_the_tensors_contradict(tmp_path, arch, case):
    key, value, tensor, words = EDITS[case]
    path = edited(arch, tmp_path, **{key: value})
    assert "has wrong shape" in llama.refusal(path)
    shapes = [f for f in verify(read_header(path)) if "has shape" in f.problem]
    (finding,) = [f for f in shapes if f.where == tensor]
    assert finding.severity == "error"
    assert "expected" in finding.problem
    assert words in finding.problem


@pytest.mark.parametrize(
    ("key", "value", "tensor"),
    [
        ("attention.head_count", 4, "blk.0.attn_q_b.weight"),
        ("attention.key_length_mla", 48, "blk.0.attn_k_b.weight"),
        ("attention.value_length_mla", 32, "blk.0.attn_output.weight"),
        ("attention.kv_lora_rank", 16, "blk.0.attn_kv_a_norm.weight"),
        ("attention.q_lora_rank", 16, "blk.0.attn_q_a.weight"),
        ("rope.dimension_count", 8, "blk.0.attn_kv_a_mqa.weight"),
    ],
)
@pytest.mark.parametrize("arch", ["deepseek2", "deepseek32", "mistral4", "bailingmoe3", "kimi-k3"])
def test_a_key_of_latent_attention_that_the_tensors_contradict(tmp_path, arch, key, value, tensor):
    path = edited(arch, tmp_path, **{key: value})
    assert "has wrong shape" in llama.refusal(path)
    shapes = {f.where: f for f in verify(read_header(path)) if "has shape" in f.problem}
    assert shapes and all(f.severity == "error" for f in shapes.values())
    assert any(f".{key} = {value}" in f.problem for f in shapes.values())
    if arch == "deepseek2":
        assert tensor in shapes


@pytest.mark.parametrize(
    "keys",
    [
        {"attention.key_length": 32, "attention.value_length": 32},
        {"attention.head_count": [2] * 8, "attention.head_count_kv": [2] * 8},
        {"feed_forward_length": [96] * 8},
        {"context_length": 64},
    ],
)
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3", "bert"])
def test_the_same_sizes_said_otherwise_are_fine(tmp_path, arch, keys):
    if arch == "bert" and "context_length" in keys:  # its positions are a tensor
        return
    path = edited(arch, tmp_path, **keys)
    assert llama.refusal(path) == ""
    assert [f for f in found(path) if f[0] == "error"] == []


def test_layers_of_unlike_sizes(tmp_path):
    """deci reads heads and widths layer by layer, and so do the findings."""
    keys = base("deci") | {
        "attention.head_count": [2, 4] * 4,
        "attention.head_count_kv": ARRAY,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "feed_forward_length": [96, 64] * 4,
    }
    plan = make.outline("deci", keys)
    path = write(tmp_path / "a.gguf", make.header(plan))
    assert llama.refusal(path) == ""
    assert found(path) == []
    moved = replace(plan, keys=keys | {"attention.head_count_kv": [*reversed(ARRAY)]})
    path = write(tmp_path / "b.gguf", make.header(moved))
    assert "blk.1.attn_k.weight" in llama.refusal(path)
    errors = [f for f in found(path) if f[0] == "error"]
    assert {f[1] for f in errors} >= {"blk.1.attn_k.weight", "blk.1.attn_v.weight"}
    assert "expected 64×32" in errors[0][2]
    assert "so also in layers 6" in errors[0][2]


CHANGES = {
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "embedding_length": 128,
    "feed_forward_length": 64,
    "expert_count": 8,
    "expert_feed_forward_length": 24,
    "expert_shared_feed_forward_length": 24,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "context_length": 64,
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_finding_where_llama_cpp_loads(tmp_path, arch):
    """Every architecture under changed keys: what it loads has no finding."""
    outline = built(arch)
    headers = {}
    for key, value in CHANGES.items():
        if not isinstance(outline.keys.get(key), list):
            headers[key] = make.header(replace(outline, keys=outline.keys | {key: value}))
    files = [survey.encoded(h, ()) for h in headers.values()]
    try:
        loads = llama.in_child(llama.loads_without, str(tmp_path / "a.gguf"), files)
    except llama.Crash:  # one of the keys makes llama.cpp abort
        loads = []
        for file in files:
            try:
                loads += llama.in_child(llama.loads_without, str(tmp_path / "a.gguf"), [file])
            except llama.Crash:
                loads.append(False)
    for (key, header), good in zip(headers.items(), loads, strict=True):
        shapes = list(shape_findings(header))
        assert not (good and shapes), (key, shapes)


@pytest.mark.parametrize(
    ("arch", "key", "value", "expected"),
    [
        ("qwen3moe", "expert_used_count", 5, "1 to 4, the number of experts"),
        ("qwen3moe", "expert_used_count", 0, "1 to 4, the number of experts"),
        ("qwen3", "expert_used_count", 2, "0 without qwen3.expert_count"),
        ("llama", "rope.dimension_count", 16, "32, the length of a head"),
        ("falcon", "rope.dimension_count", 64, "32, the length of a head"),
        ("qwen3", "rope.dimension_count", 16, None),
        ("llama", "rope.dimension_count", 32, None),
        ("qwen3", "block_count", 513, "1 to 512"),
        ("qwen3", "block_count", 0, "1 to 512"),
    ],
)
def test_counts(tmp_path, arch, key, value, expected):
    path = edited(arch, tmp_path, **{key: value})
    counts = [f for f in verify(read_header(path)) if f.where == f"{arch}.{key}"]
    assert (llama.refusal(path) == "") == (expected is None)
    if expected is None:
        assert counts == []
    else:
        (finding,) = counts
        assert finding.severity == "error"
        assert finding.problem.startswith(f"expected {expected}, found {value}")


def twice(tmp_path):
    """A model whose tokens 6 and 9 are the same, and two pairs more."""
    tokens = (*TOKENS, "a", "b", "<s>", "a")
    return write_shapes(
        tmp_path / "a.gguf", replace(TINY, n_vocab=len(tokens)), seed=1, tokens=tokens
    )


def test_tokens_of_several_ids(tmp_path):
    path = twice(tmp_path)
    assert "ended with code" in llama.refusal(path)  # GGML_ASSERT
    (finding,) = verify(read_header(path))
    assert (finding.severity, finding.where) == ("error", "tokenizer.ggml.tokens")
    assert "'a' (ids 6, 9, 12), 'b' (ids 7, 10), '<s>' (ids 1, 11)" in finding.problem


def test_empty_tokens_have_names_of_their_own_in_llama_cpp(tmp_path):
    tokens = (*TOKENS, "", "")
    shape = replace(TINY, n_vocab=len(tokens))
    path = write_shapes(tmp_path / "a.gguf", shape, seed=1, tokens=tokens)
    assert llama.refusal(path) == ""
    assert verify(read_header(path)) == []


def deep(path):
    done = CliRunner().invoke(cli, ["verify", "--deep", "--json", str(path)])
    return done.exit_code, json.loads(done.stdout)["findings"]


def test_deep_does_not_relay_an_abort(tmp_path):
    code, findings = deep(twice(tmp_path))
    assert code == 1
    assert findings[0]["where"] == "tokenizer.ggml.tokens"
    assert [f["where"] for f in findings if f["severity"] == "error"] == [
        "tokenizer.ggml.tokens",
        "llama.cpp",
    ]
    assert findings[-1] == {
        "severity": "note",
        "where": "tokenizer",
        "problem": "not run: its errors are listed above",
        "hint": "",
    }


def test_deep_asks_llama_cpp(tmp_path):
    path = write_shapes(tmp_path / "a.gguf", TINY, kind=GGMLQuantizationType.F32, tokens=TOKENS)
    assert [f for f in deep(path)[1] if f["where"] == "llama.cpp"] == []
    header = read_header(path)
    cut = write(
        tmp_path / "b.gguf", header, tuple(t.name for t in header.tensors if "ffn_n" in t.name)
    )
    code, findings = deep(cut)
    assert code == 1
    (said,) = [f["problem"] for f in findings if f["where"] == "llama.cpp"]
    assert "does not load the file: " in said and "blk.0.ffn_norm.weight" in said
