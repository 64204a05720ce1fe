"""New metadata entries get the type that llama.cpp reads, whoever writes them."""

from __future__ import annotations

import pytest
from gguf.constants import GGUFValueType as V

from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.reader import Source
from ggsurgery.ggufio.types import Value
from ggsurgery.ggufio.writer import encode_header
from ggsurgery.runtime import worker
from ggsurgery.runtime.engine import Engine

from .._command import call, error_line
from .._shapes import BYTES, small, write_shapes


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "in.gguf"
    return write_shapes(path, small("Small", 2), seed=1, tokens=BYTES)


def loads(path):
    with Engine.open(path, n_ctx=8) as engine:
        return engine.n_vocab


EXAMPLES = [
    ("{arch}.rope.scaling.factor", "4", V.FLOAT32),
    ("tokenizer.ggml.eot_token_id", "2", V.UINT32),
    ("tokenizer.ggml.add_eos_token", "false", V.BOOL),
]


@pytest.mark.parametrize(("key", "text", "kind"), EXAMPLES)
@pytest.mark.parametrize("json", [True, False])
def test_by_meta_set(tmp_path, model, key, text, kind, json):
    out = tmp_path / "out.gguf"
    said = call("meta", "set", key, text, *(["--as-json"] if json else []), model, out)
    assert "known key" not in said.err
    assert read_header(out).metadata[key.replace("{arch}", "qwen3")].type == kind
    call("verify", out)
    assert worker.run(loads, str(out)) == len(BYTES)


def test_by_a_recipe(tmp_path, model):
    lines = [f"  - set: {{key: '{key}', value: {text}}}" for key, text, _ in EXAMPLES]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("\n".join(["operations:", *lines]))
    out = tmp_path / "out.gguf"
    call("apply", recipe, model, out)
    found = read_header(out).metadata
    assert [found[k.replace("{arch}", "qwen3")].type for k, *_ in EXAMPLES] == [
        kind for *_, kind in EXAMPLES
    ]
    call("verify", out)
    assert worker.run(loads, str(out)) == len(BYTES)


def test_a_wrong_type_is_named_and_mended(tmp_path, model):
    wrong, right = tmp_path / "wrong.gguf", tmp_path / "right.gguf"
    key = "qwen3.rope.scaling.factor"
    said = call("meta", "set", key, "4", "--type", "i32", model, wrong)
    assert "has the type int32, expected float32: llama.cpp refuses the file" in said.err
    found = call("verify", wrong, code=1)
    assert f"error: {key}: has the type int32, expected float32" in found.out
    with pytest.raises(Exception, match="wrong type i32 but expected type f32"):
        worker.run(loads, str(wrong))
    call("meta", "set", key, "4", wrong, right)  # a type that llama.cpp refuses does not stay
    call("verify", right)
    assert worker.run(loads, str(right)) == len(BYTES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tokenizer.ggml.eot_token_id", "-1"), "does not fit the type uint32: expected a whole"),
        (("qwen3.rope.scaling.factor", "four"), "does not fit the type float32: expected a number"),
        (("qwen3.rope.scaling.factor", "[4]", "--as-json"), "expected a single value of type"),
        (("general.tags", "one"), "an array is needed: expected JSON"),
        (("tokenizer.ggml.add_bos_token", "7"), "does not fit the type bool"),
    ],
)
def test_values_that_do_not_fit(tmp_path, model, arguments, message):
    assert message in error_line("meta", "set", *arguments, model, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("my.key", "5"), "my.key is not a known key: written as string; --type uint32 sets"),
        (("my.key", "5", "--as-json"), "written as int32; --type TYPE sets another"),
        (("my.key", "[1.5, 2]", "--as-json"), "written as array[float32]"),
        (("qwen3.rope.scaling.facter", "4"), "Did you mean qwen3.rope.scaling.factor?"),
    ],
)
def test_the_type_of_an_unknown_key_is_named(tmp_path, model, arguments, message):
    said = call("meta", "set", *arguments, model, tmp_path / "out.gguf")
    assert message in said.err


def test_verify_lists_a_wrong_type_of_the_layer_count(tmp_path, model):
    with Source(model) as source:
        header = source.header
        entries = dict(header.metadata) | {"qwen3.block_count": Value.of(2.0, V.FLOAT32)}
        data = model.read_bytes()[header.data_offset[0] :]
    path = tmp_path / "a.gguf"
    path.write_bytes(encode_header(entries, header.tensors, "<", 32) + data)
    found = call("verify", path, code=1).out
    assert "error: qwen3.block_count: has the type float32, expected uint32" in found
