"""Entries `ggsurgery.*` that anybody may have written: of every wrong type, length and content."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from ggsurgery.compensate.checks import check_uncut
from ggsurgery.compensate.fit_again import fit_of, heal_again
from ggsurgery.compensate.sidecar import Sidecar
from ggsurgery.errors import GGSurgeryError
from ggsurgery.ggufio.constants import GGUFValueType as V
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.imatrix import Entry, Imatrix
from ggsurgery.ggufio.types import Header, Value
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.release.laco_section import check_laco
from ggsurgery.release.sections import made_by, recovery
from ggsurgery.surgery.imatrix_lineage import OPERATIONS, check_fits, operations
from ggsurgery.surgery.prepare import prepare
from ggsurgery.surgery.provenance import lineage, read_provenance

from .._command import call, error_line
from .._gguf import tiny_llama

KEYS = ("version", "recipe", "sources", "checksums", "digest", "history")

#: Values of every GGUF type, none of which is what any of the entries holds.
TYPES: dict[str, Value] = {
    "u8": Value.of(7, V.UINT8),
    "i64": Value.of(-(2**63), V.INT64),
    "f32": Value.of(float("nan"), V.FLOAT32),
    "bool": Value.of(True, V.BOOL),
    "empty": Value.of("", V.STRING),
    "long": Value.of("x" * 100_000, V.STRING),
    "control": Value.of("\x1b[2J\n", V.STRING),
    "no texts": Value.of([], V.ARRAY, V.STRING),
    "one text": Value.of(["a"], V.ARRAY, V.STRING),
    "thousand texts": Value.of(["a"] * 1000, V.ARRAY, V.STRING),
    "numbers": Value.of([1, 2], V.ARRAY, V.INT32),
    "flags": Value.of([True], V.ARRAY, V.BOOL),
}

#: Documents that are JSON, and no recipe or history.
DOCUMENTS = (
    *("null", "true", "0", "-1e999", "NaN", '"x"', "[]", "{}", "[null]", "[[]]", "[{}]", "[0]"),
    *('{"operations":0}', '{"operations":{}}', '{"operations":[0]}', '{"operations":[{}]}'),
    *('{"options":[]}', '{"options":{"out_type":[]}}', '{"options":{"x":1}}', '{"name":[]}'),
    '{"operations":[{"delete":{"layer":"1"},"swap":{}}]}',
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"recipe":' + "1" * 5_000 + "}",
    '[{"recipe":0,"sources":0}]',
    '[{"recipe":"[]","sources":[]}]',
    '[{"recipe":"{}","sources":["a"],"history":[{"recipe":"x"}]}]',
    '[{"recipe":"{}","sources":["a"],"history":7}]',
    '[{"recipe":"{}","sources":["a"],"history":{"0":1}}]',
)

#: What an argument of an operation may hold instead of its value.
ARGUMENTS = (None, True, -1, 2**70, 1e308, "", "x", "99", "1" * 50, [], [None], {}, {"a": 1}, [[]])

FIT = {
    "method": "refit",
    "tokens": 64,
    "ctx": 32,
    "ridge": 0.01,
    "first": 30.0,
    "text": "0" * 64,
    "arrays": {"heal.blk.0.ffn_down.weight": "0" * 64},
}
STEPS = (
    step("delete", layer="1"),
    step("swap", layers="1,2"),
    step("move", layer="1", to=0),
    step("duplicate", layer="1", to=0, times=1, scale=0.5),
    step("keep", layers="0,1"),
    step("merge", layers="1-2", method="damped", factor=0.5),
    step("interpolate", layers="1,2", weight=0.5, at=1),
    step("bridge", layer=1, at=2, scale=0.5),
    step("prune", sparsity=0.5, scope="row", only="attn_q"),
    step("set", key="general.license", value="mit", type="string"),
    step("unset", key="general.license"),
    step("blend", models=1, method="linear", weights=[1.0]),
    step("heal", layer="1", fit=FIT),
)


def wrong_recipes() -> Iterator[str]:
    for one in STEPS:
        arguments = dict(one.arguments)
        yield json.dumps({"operations": [{one.operation: None}]})
        for name in arguments:
            left = {k: v for k, v in arguments.items() if k != name}
            yield json.dumps({"operations": [{one.operation: left}]})
            for value in ARGUMENTS:
                yield json.dumps({"operations": [{one.operation: arguments | {name: value}}]})
    for name, value in itertools.product(FIT, ARGUMENTS):
        yield json.dumps({"operations": [{"heal": {"layer": "1", "fit": FIT | {name: value}}}]})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Header:
    """A file with a history: cut twice."""
    folder = tmp_path_factory.mktemp("made")
    tiny_llama(folder / "in.gguf", 4)
    call("delete", "--layer", "1", folder / "in.gguf", folder / "once.gguf")
    call("swap", "--layers", "0,1", folder / "once.gguf", folder / "twice.gguf")
    return read_header(folder / "twice.gguf")


def changed(header: Header, key: str, value: Value | None) -> Header:
    metadata = {k: v for k, v in header.metadata.items() if k != f"ggsurgery.{key}"}
    if value is not None:
        metadata[f"ggsurgery.{key}"] = value
    return replace(header, metadata=metadata)


def entry() -> Imatrix:
    one = Entry(np.ones((1, 64), np.float32), np.ones(1, np.int64))
    return Imatrix({f"blk.{i}.attn_q.weight": one for i in range(4)})


READERS: dict[str, Callable[[Header], object]] = {
    "replay": read_provenance,
    "history": lineage,
    "heal": check_uncut,
    "imatrix": lambda header: check_fits(entry(), header),
    "card": made_by,
    "advice": recovery,
    "card of LaCo": lambda header: check_laco({"format": "laco"}, header),
}


def refused(reader: Callable[[Header], object], header: Header) -> str | None:
    """The message; any other error fails the test."""
    try:
        reader(header)
    except GGSurgeryError as error:
        text = str(error)
        assert text.isprintable() and len(text) < 2000
        return text
    return None


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", KEYS)
def test_entries_of_other_types(made: Header, key: str, reader: str) -> None:
    values = [None, *TYPES.values(), *(Value.of(text, V.STRING) for text in DOCUMENTS)]
    said = [refused(READERS[reader], changed(made, key, value)) for value in values]
    if (key, reader) in (("recipe", "replay"), ("recipe", "history"), ("history", "history")):
        assert sum(text is not None for text in said) > len(values) // 2


def test_recipes_of_other_arguments(made: Header, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "in.gguf", 4)
    side = Sidecar({"heal.blk.0.ffn_down.weight": np.ones((2, 2), np.float32)})

    def replayed(header: Header) -> None:
        recipe = read_provenance(header).recipe
        with prepare(recipe, [source], given=side):
            pass

    def again(header: Header) -> None:
        recipe = read_provenance(header).recipe
        if fit_of(recipe) is not None:
            heal_again(recipe, source, "x")

    said: list[str | None] = []
    for text in wrong_recipes():
        header = changed(made, "recipe", Value.of(text, V.STRING))
        for reader in (replayed, again, operations, made_by, recovery):
            said.append(refused(reader, header))
    assert sum(text is not None for text in said) > 300


def test_a_matrix_of_other_operations(made: Header) -> None:
    matrix = entry()
    for value in (*TYPES.values(), *(Value.of(text, V.STRING) for text in DOCUMENTS)):
        matrix.metadata[OPERATIONS] = value
        refused(lambda header: check_fits(matrix, header), made)


def test_a_recipe_that_names_arrays_of_another_shape(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "in.gguf", 4)
    array = np.ones((2, 2), np.float32)
    key = "heal.blk.0.ffn_down.weight"
    sums = {key: Sidecar({key: array}).checksum(key)}
    recipe = Recipe((step("heal", layer="1", fit=FIT | {"arrays": sums}),))
    with (
        pytest.raises(GGSurgeryError, match="ffn_down"),
        prepare(recipe, [source], given=Sidecar({key: array})) as prepared,
    ):
        prepared.write(tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("key", "add"),
    [
        ("recipe", lambda w, k: w.add_uint32(k, 1)),
        ("recipe", lambda w, k: w.add_string(k, "[" * 50_000)),
        ("sources", lambda w, k: w.add_array(k, [1, 2])),
        ("checksums", lambda w, k: w.add_string(k, "x")),
        ("history", lambda w, k: w.add_float32(k, 1.0)),
    ],
)
def test_the_commands_say_it_in_one_line(
    tmp_path: Path, key: str, add: Callable[[GGUFWriter, str], Any]
) -> None:
    good: dict[str, Callable[[GGUFWriter, str], Any]] = {
        "version": lambda w, k: w.add_string(k, "0.1.0"),
        "recipe": lambda w, k: w.add_string(k, '{"operations":[{"delete":{"layer":"1"}}]}'),
        "sources": lambda w, k: w.add_array(k, ["in.gguf"]),
        "checksums": lambda w, k: w.add_array(k, ["sampled-sha256:0"]),
        "digest": lambda w, k: w.add_string(k, "0"),
    }

    def meta(writer: GGUFWriter) -> None:
        for name, one in (good | {key: add}).items():
            one(writer, f"ggsurgery.{name}")

    model = tiny_llama(tmp_path / "m.gguf", 3, meta=meta)
    source = tiny_llama(tmp_path / "in.gguf", 4)
    lines = [
        error_line("replay", model, source, tmp_path / "o.gguf"),
        error_line("quantize", model, tmp_path / "o.gguf", "--type", "Q8_0", "--pin", source),
    ]
    assert f"ggsurgery.{key}" in lines[key == "history"]  # a replay needs no history
    call("inspect", model)
    call("delete", "--layer", "1", model, tmp_path / "cut.gguf")  # the history keeps what it can
    call("inspect", tmp_path / "cut.gguf")
