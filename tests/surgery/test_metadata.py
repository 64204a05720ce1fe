"""Single entries set and removed; types stay, and what does not fit is refused."""

from __future__ import annotations

import pytest
from gguf import GGUFValueType as V
from gguf import GGUFWriter

from ggsurgery.errors import PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.new_value import new_value
from ggsurgery.plan.recipe import step

from .._gguf import peer_metadata, tiny_llama
from .test_prepare import operate


def meta(writer: GGUFWriter) -> None:
    writer.add_uint8("x.u8", 7)
    writer.add_float32("x.f32", 0.5)
    writer.add_bool("x.flag", True)
    writer.add_array("x.ints", [1, 2])
    writer.add_string("x.text", "old")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "in.gguf", 2, meta=meta)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("x.u8", "255", 255),
        ("x.u8", 3.0, 3),
        ("x.f32", "5e6", 5e6),
        ("x.f32", 1, 1.0),
        ("x.flag", "False", False),
        ("x.flag", 1, True),
        ("x.ints", [5, "6", -7], [5, 6, -7]),
        ("x.ints", [], []),
        ("x.text", "naïve → 漢字\nsecond line", "naïve → 漢字\nsecond line"),
        ("{arch}.context_length", 4096, 4096),
        ("x.new", "text", "text"),
        ("x.new", True, True),
        ("x.new", -5, -5),
        ("x.new", 2**31, 2**31),
        ("x.new", 2**40, 2**40),
        ("x.new", 0.25, 0.25),
        ("x.new", ["a", "b"], ["a", "b"]),
        ("x.new", [0.5, 1.5], [0.5, 1.5]),
    ],
)
def test_set(tmp_path, model, key, value, expected):
    out = operate(model, tmp_path / "out.gguf", step("set", key=key, value=value))
    full = key.replace("{arch}", "llama")
    assert peer_metadata(out)[full] == expected
    before = read_header(model).metadata.get(full)
    if before is not None:
        after = read_header(out).metadata[full]
        assert (after.type, after.item_type) == (before.type, before.item_type)


@pytest.mark.parametrize(
    ("name", "value", "kind", "item"),
    [
        ("uint64", str(2**64 - 1), V.UINT64, None),
        ("FLOAT64", "0.1", V.FLOAT64, None),
        ("string", "5", V.STRING, None),
        ("array[float32]", [1, "2"], V.ARRAY, V.FLOAT32),
        (" array[string] ", [], V.ARRAY, V.STRING),
        ("array[bool]", [True, "false", 0], V.ARRAY, V.BOOL),
    ],
)
def test_a_type_that_is_asked_for(model, name, value, kind, item):
    found, note = new_value("x.new", value, read_header(model), asked=name)
    assert note is None
    assert (found.type, found.item_type) == (kind, item)


@pytest.mark.parametrize(
    ("key", "value", "kind", "message"),
    [
        ("x.u8", 256, None, "does not fit the type uint8"),
        ("x.u8", 1.5, None, "does not fit the type uint8"),
        ("x.u8", float("inf"), None, "does not fit the type uint8"),
        ("x.u8", [1], None, "a list does not fit: expected a single value of type uint8"),
        ("x.u8", None, None, "does not fit the type uint8"),
        ("x.flag", "perhaps", None, "does not fit the type bool"),
        ("x.f32", "1e400000x", None, "does not fit the type float32"),
        ("x.ints", 5, None, "an array is needed"),
        ("x.text", 5, None, "a string is needed: found 5"),
        ("x.new", [1, "a"], None, "items of several types"),
        ("x.new", {"a": 1}, None, "no GGUF type for dict"),
        ("x.new", [[1]], None, "an array of arrays"),
        ("x.new", 1, "array[array]", "no item type"),
        ("x.new", 2**70, None, "does not fit the type int32"),
        ("split.count", 1, None, "cannot be changed alone"),
        ("general.architecture", "gpt2", None, "cannot be changed alone"),
    ],
)
def test_refused(tmp_path, model, key, value, kind, message):
    one = step("set", key=key, value=value, type=kind)
    if value is None:
        one = type(one)("set", (("key", key), ("value", None)))
    with pytest.raises(Exception, match=message) as caught:
        operate(model, tmp_path / "out.gguf", one)
    assert type(caught.value).__name__ in ("PlanError", "FormatError")
    assert not (tmp_path / "out.gguf").exists()


def test_unset(tmp_path, model):
    out = operate(model, tmp_path / "out.gguf", step("unset", key="x.text"))
    assert "x.text" not in peer_metadata(out)
    with pytest.raises(PlanError, match=r"no entry x\.text to remove"):
        operate(out, tmp_path / "b.gguf", step("unset", key="x.text"))
