"""The table of entry types against llama.cpp: its source, and its loader on files of every kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf.constants import GGUFValueType as V

from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.key_types import (
    ANY_ARRAY,
    ANY_SCALAR,
    DATA,
    KeyType,
    expand,
    key_type,
    known_keys,
)
from ggsurgery.ggufio.new_value import new_value
from ggsurgery.ggufio.reader import Source
from ggsurgery.ggufio.types import Value
from ggsurgery.ggufio.writer import encode_header
from ggsurgery.inspect.entries import entry_type_findings
from ggsurgery.runtime import binding, log, worker

from .._gguf import tiny_llama
from .._llama_keys import as_toml, read_source
from .._llama_source import llama_source

N_LAYERS = 4
#: Values that the loaders insist on, by key without the architecture.
VALUES = {
    "block_count": N_LAYERS,
    "context_length": 64,
    "embedding_length": 64,
    "vocab_size": 32,
    "attention.head_count": 4,
    "attention.head_count_kv": 4,
    "feed_forward_length": 64,
    "expert_count": 4,
    "expert_used_count": 2,
    "nextn_predict_layers": 0,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "rope.dimension_count": 16,
    "leading_dense_block_count": 0,
    "attention.shared_kv_layers": 0,
    "full_attention_interval": 2,
    "attention.sliding_window": 16,
    "hidden_activation": "gelu",
    "expert_gating_func": 2,
    "kda.gate_lower_bound": -1.0,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 16,
    "ssm.inner_size": 128,
    "rope.scaling.type": "linear",
}
#: Architectures that together read nearly every kind of key.
ARCHITECTURES = (
    "llama",
    "qwen3",
    "gemma3n",
    "grok",
    "qwen3next",
    "falcon-h1",
    "rwkv7",
    "apertus",
    "step35",
    "granite_swa",
    "deepseek2",
    "modern-bert",
    "nanbeige",
)


def test_the_table_is_that_of_the_sources():
    assert DATA.read_text(encoding="utf-8") == as_toml(read_source(llama_source()))


def suitable(kind: KeyType, wanted: object = None) -> object:
    """A value for a key: the wanted one, or 1 in the key's type."""
    if wanted is not None:
        return wanted
    single = {V.STRING: "linear", V.BOOL: True, V.FLOAT32: 1.0}
    if kind.scalar is not None:
        return single.get(kind.scalar, 1)
    return [single.get(kind.items[0], 1)] * N_LAYERS


def right_entries(architecture: str) -> dict[str, Value]:
    """Every entry that the architecture's loader reads, as `meta set` types it."""
    tables = known_keys()
    readers = [
        key
        for key, text in tables["by_architecture"].items()
        if any(architecture in part.partition(": ")[2].split() for part in text.split("; "))
    ]
    entries = {
        "general.architecture": Value.of(architecture, V.STRING),
        "tokenizer.ggml.model": Value.of("no_vocab", V.STRING),
        "tokenizer.ggml.token_type_count": Value.of(2, V.UINT32),
    }
    names = [*(k for k in tables["everywhere"] if k.startswith("{arch}")), *readers]
    header = _Header(architecture)
    for name in names:
        key = name.replace("{arch}", architecture)
        kind = key_type(key, architecture)
        assert kind is not None
        value = suitable(kind, VALUES.get(name.removeprefix("{arch}.")))
        entries[key], note = new_value(key, value, header)
        assert note is None
        assert kind.accepts(entries[key]), key
    return entries


class _Header:
    """As much of a header as `new_value` asks for."""

    order = "<"

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture


def wrong_values(kind: KeyType) -> Iterator[Value]:
    """Values of types that are not among the accepted ones."""
    for name in sorted(ANY_SCALAR - kind.accepted - {"uint8", "int8", "uint16", "int16", "uint64"}):
        yield Value.of({"string": "x", "bool": True}.get(name, 1), V[name.upper()])
    for name in ("float64", "int32", "string", "bool"):
        if f"array[{name}]" not in kind.accepted:
            items = [{"string": "x", "bool": True}.get(name, 1)] * N_LAYERS
            yield Value.of(items, V.ARRAY, V[name.upper()])


def loader_says(path: Path, metadata: dict[str, Value]) -> str:
    path.write_bytes(encode_header(metadata, [], "<", 32))
    llama = binding.llama()
    with log.capture() as lines:
        model = llama.llama_model_load_from_file(
            os.fsencode(path), llama.llama_model_default_params()
        )
    if model:
        llama.llama_model_free(model)
    return str(lines.errors())


def disagreements(path: str, architecture: str) -> tuple[int, list[str]]:
    """Where the loader takes a type that the table refuses, or the other way round."""
    right, found, count = right_entries(architecture), [], 0
    said = loader_says(Path(path), right)
    if "tensor '" not in said:  # the loader came as far as the tensors, of which there are none
        found.append(f"{architecture}: all types right: {said}")
    for key in right:
        kind = key_type(key, architecture)
        assert kind is not None
        for wrong in wrong_values(kind):
            if key == "general.architecture":
                continue
            metadata = right | {key: wrong}
            count += 1
            refused = key in loader_says(Path(path), metadata)
            errors = [f for f in entry_type_findings(read_header(path)) if f.severity == "error"]
            if refused != (key in [f.where for f in errors]):
                found.append(f"{key} {wrong.type.name} {wrong.item_type}: refused {refused}")
    return count, found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_verify_and_the_loader_agree(tmp_path, architecture):
    count, found = worker.run(disagreements, str(tmp_path / "a.gguf"), architecture)
    assert found == []
    assert count > 200


# -- set with the typing function, loaded by llama.cpp --------------------------------------


def loads(path: str, key: str, raw: Value) -> str:
    """The loader's complaint about a whole model with this entry, or nothing."""
    with Source(path) as source:
        metadata = dict(source.header.metadata) | {key: raw}
        head = encode_header(metadata, source.header.tensors, "<", 32)
        data = Path(path).read_bytes()[source.header.data_offset[0] :]
    out = Path(path).with_name("out.gguf")
    out.write_bytes(head + data)
    llama = binding.llama()
    with log.capture() as lines:
        model = llama.llama_model_load_from_file(
            os.fsencode(out), llama.llama_model_default_params()
        )
    if not model:
        return str(lines.errors()) or "no reason"
    llama.llama_model_free(model)
    return ""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "in.gguf", N_LAYERS)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("llama.rope.scaling.factor", "4"),
        ("tokenizer.ggml.eot_token_id", "2"),
        ("tokenizer.ggml.add_bos_token", "true"),
        ("llama.rope.scaling.type", "yarn"),
        ("llama.rope.scaling.original_context_length", "64"),
        ("llama.attention.key_length", "16"),
        ("llama.expert_group_count", "0"),
        ("llama.classifier.output_labels", ["a", "b"]),
        ("llama.feed_forward_length", [96] * N_LAYERS),
        ("llama.attention.head_count_kv", [2] * N_LAYERS),
        ("general.sampling.temp", "0.7"),
        ("general.tags", ["a"]),
    ],
)
def test_a_new_entry_loads(model, key, text):
    value, note = new_value(key, text, read_header(model))
    assert note is None
    assert worker.run(loads, str(model), key, value) == ""


def test_types_in_words():
    assert expand("scalar or array[string]") == ANY_SCALAR | {"array[string]"}
    assert expand("uint32 or array") == ANY_ARRAY | {"uint32"}
    assert key_type("general.dataset.12.name", "llama").scalar == V.STRING
    assert key_type("llama.ssm.conv_kernel", "llama").enforced is False
    assert key_type("mamba.ssm.conv_kernel", "mamba").enforced is True
