"""What a file says of itself: its name, its size, how it was made; and `replay` proves it."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import pytest
from gguf import GGUFWriter

from ggsurgery import __version__
from ggsurgery.errors import FormatError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare, prepare_replay
from ggsurgery.surgery.provenance import read_provenance

from .._gguf import Raw, kv_array, kv_text, peer_metadata, text, tiny_llama
from .test_prepare import operate


@pytest.fixture
def model(tmp_path):
    return tiny_llama(tmp_path / "in.gguf", 4)


def replay(made, source, new):
    with prepare_replay(made, [source]) as operation:
        operation.write(new)
    return new.read_bytes()


def test_the_header_tells_how_the_file_was_made(tmp_path, model):
    out = operate(model, tmp_path / "out.gguf", step("delete", layer="1"))
    found = read_provenance(read_header(out))
    assert found.recipe == Recipe((step("delete", layer="1"),))
    assert (found.version, found.sources) == (__version__, ("in.gguf",))
    assert found.checksums[0].startswith("sampled-sha256:")
    assert "ggsurgery.history" not in peer_metadata(out)


def test_name_and_size_tell_the_new_truth(tmp_path):
    def meta(writer: GGUFWriter) -> None:
        writer.add_string("general.basename", "Tiny")

    source = tiny_llama(tmp_path / "in.gguf", 30, meta=meta)
    plain = peer_metadata(operate(source, tmp_path / "a.gguf", step("delete", layer="1-20")))
    parameters = read_header(tmp_path / "a.gguf").n_parameters
    assert plain["general.size_label"] == f"{round(parameters / 1e3)}K"
    assert plain["general.name"] == f"Tiny {plain['general.size_label']} (delete 1-20)"
    named = operate(source, tmp_path / "b.gguf", step("delete", layer="1-20"), name="Mine")
    assert peer_metadata(named)["general.name"] == "Mine"


@pytest.mark.parametrize(
    "steps",
    [
        [step("delete", layer="1")],
        [step("keep", layers="3,0,0"), step("set", key="general.license", value="mit")],
        [step("duplicate", layer="0", times=3)],
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_replay_gives_the_same_bytes(tmp_path, model, steps, full):
    options = {"full_checksum": True} if full else {}
    out = operate(model, tmp_path / "out.gguf", *steps, name="New", **options)
    assert replay(out, model, tmp_path / "new.gguf") == out.read_bytes()


def test_replay_after_the_source_was_renamed(tmp_path, model):
    out = operate(model, tmp_path / "out.gguf", step("delete", layer="1"))
    other = tmp_path / "folder"
    other.mkdir()
    moved = shutil.move(model, other / "another name.gguf")
    assert replay(out, moved, tmp_path / "new.gguf") == out.read_bytes()


def test_replay_of_a_second_operation_keeps_the_history(tmp_path, model):
    once = operate(model, tmp_path / "once.gguf", step("delete", layer="1"))
    twice = operate(once, tmp_path / "twice.gguf", step("swap", layers="0,1"))
    (history,) = json.loads(peer_metadata(twice)["ggsurgery.history"])
    assert history["recipe"] == '{"operations":[{"delete":{"layer":"1"}}]}'
    assert replay(twice, once, tmp_path / "new.gguf") == twice.read_bytes()


def test_the_history_grows_by_the_same_size_each_time(tmp_path, model):
    """Text within text would double its backslashes: 20 operations made a header of 100 MB."""
    sizes, path = [], model
    for n in range(14):
        path = operate(path, tmp_path / f"{n}.gguf", step("swap", layers="0,1"), name="x")
        sizes.append(len(peer_metadata(path).get("ggsurgery.history", "")))
    growth = {b - a for a, b in pairwise(sizes[1:])}
    assert max(growth) - min(growth) <= 2  # "9.gguf", "10.gguf"
    (last,) = json.loads(peer_metadata(path)["ggsurgery.history"])
    for n in range(12, 0, -1):
        assert last["sources"] == [f"{n - 1}.gguf"]
        (last,) = last["history"]
    assert last["sources"] == ["in.gguf"]
    assert replay(path, tmp_path / "12.gguf", tmp_path / "new.gguf") == path.read_bytes()


@pytest.mark.parametrize("history", ["[" * 5000, "[" * 900 + "]" * 900, "no JSON"])
def test_an_odd_history_does_not_stop_an_operation(tmp_path, history):
    def meta(writer: GGUFWriter) -> None:
        writer.add_string("ggsurgery.history", history)

    source = tiny_llama(tmp_path / "in.gguf", 3, meta=meta)
    out = operate(source, tmp_path / "out.gguf", step("delete", layer="1"))
    assert len(json.loads(peer_metadata(out)["ggsurgery.history"])) == 1


def test_replay_on_another_file_is_refused(tmp_path, model):
    out = operate(model, tmp_path / "out.gguf", step("delete", layer="1"))
    other = tiny_llama(tmp_path / "other.gguf", 4, seed=1)
    with pytest.raises(FormatError, match=r"other\.gguf: not the file.*expected in\.gguf with"):
        prepare_replay(out, [other])
    with pytest.raises(PlanError, match=r"another number of inputs.*expected in\.gguf, found 2"):
        prepare_replay(out, [model, other])
    with pytest.raises(FormatError, match="no ggsurgery provenance in this file"):
        prepare_replay(model, [model])


@pytest.mark.parametrize("full", [False, True])
def test_one_changed_byte_at_a_tensors_end_is_noticed(tmp_path, model, full):
    options = {"full_checksum": True} if full else {}
    out = operate(model, tmp_path / "out.gguf", step("delete", layer="1"), **options)
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with pytest.raises(FormatError, match="not the file that the operation was done on"):
        prepare_replay(out, [model])


def test_the_full_checksum_is_sha256sum(tmp_path, model):
    import hashlib

    out = operate(model, tmp_path / "out.gguf", step("delete", layer="1"), full_checksum=True)
    expected = hashlib.sha256(model.read_bytes()).hexdigest()
    assert read_provenance(read_header(out)).checksums == (f"sha256:{expected}",)


def test_no_path_of_the_machine_goes_into_a_file(tmp_path, model):
    recipe = Recipe((step("delete", layer="1"), step("swap", layers="0,1")))
    with prepare(recipe, [model.resolve()]) as operation:
        operation.write(tmp_path / "out.gguf")
    twice = operate(tmp_path / "out.gguf", tmp_path / "twice.gguf", step("delete", layer="0"))
    for made in (tmp_path / "out.gguf", twice):
        data = made.read_bytes()
        for folder in (model.parent, tmp_path):
            assert str(folder.resolve()).encode() not in data
        assert b"/" not in json.dumps(peer_metadata(made), default=str).encode().replace(
            b"://", b""
        )


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("recipe", kv_text("ggsurgery.recipe", "{"), "ggsurgery.recipe: damaged entry"),
        ("recipe", kv_text("ggsurgery.recipe", "[" * 100_000), "ggsurgery.recipe: damaged entry"),
        (
            "recipe",
            kv_text("ggsurgery.recipe", '{"operations":[{"explode":1}]}'),
            "unknown operation",
        ),
        ("sources", kv_text("ggsurgery.sources", "a"), "ggsurgery.sources: damaged entry"),
        ("checksums", kv_array("ggsurgery.checksums", 8, 0, b""), "damaged entry: found 0 for 1"),
    ],
)
def test_a_damaged_provenance(tmp_path, key, entry, message):
    entries = {
        "version": kv_text("ggsurgery.version", "1"),
        "recipe": kv_text("ggsurgery.recipe", "[]"),
        "sources": kv_array("ggsurgery.sources", 8, 1, text("a.gguf")),
        "checksums": kv_array("ggsurgery.checksums", 8, 1, text("sha256:0")),
        "digest": kv_text("ggsurgery.digest", "0"),
    }
    path = Raw(kvs=[*(entries | {key: entry}).values()]).write(tmp_path / "a.gguf")
    with pytest.raises(FormatError, match=message):
        read_provenance(read_header(path))
