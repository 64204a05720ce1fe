"""Keys, strings and tensor names that are not UTF-8: read, shown escaped, copied byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace

import pytest
from gguf.constants import GGUFValueType as V

from ggsurgery.errors import json_text
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.reader import Source
from ggsurgery.ggufio.types import Value
from ggsurgery.ggufio.writer import encode_header

from .._command import call, command, environment, error_line
from .._gguf import tiny_llama
from ..fuzz.against_ggml import Ggml

KEY, TEXT, NAME = b"bad\xff.key", b"caf\xe9", b"extra\xfe.weight"


def as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    plain = tiny_llama(folder / "plain.gguf", 3)
    with Source(plain) as source:
        head = source.header
        last = head.tensors[-1]
        extra = replace(
            head.by_name["output_norm.weight"],
            name=as_text(NAME),
            offset=-(-(last.offset + last.nbytes) // 32) * 32,
        )
        metadata = dict(head.metadata) | {
            as_text(KEY): Value.of("x", V.STRING),
            "general.author": Value.of(as_text(TEXT), V.STRING),
        }
        data = plain.read_bytes()[head.data_offset[0] :]
    data = data.ljust(extra.offset, b"\0") + bytes(extra.nbytes)
    path = folder / "in.gguf"
    path.write_bytes(encode_header(metadata, [*head.tensors, extra], "<", 32) + data)
    return path


def test_ggml_reads_it_and_so_do_we(model):
    assert Ggml().takes(model)
    header = read_header(model)
    assert as_text(KEY) in header.metadata
    assert as_text(NAME) in header.by_name
    assert all(raw in model.read_bytes() for raw in (KEY, TEXT, NAME))


def test_copies_keep_the_bytes(tmp_path, model):
    out = tmp_path / "out.gguf"
    call("delete", "--layer", "1", model, out)
    assert all(raw in out.read_bytes() for raw in (KEY, TEXT, NAME))
    assert Ggml().takes(out)
    call("replay", out, model, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [("meta", "show"), ("inspect", "--tensors"), ("verify",), ("diff",)],
    ids=lambda a: a[0],
)
def test_shown_escaped_and_as_json(tmp_path, model, arguments):
    files = [model]
    if arguments == ("diff",):
        files.append(tiny_llama(tmp_path / "other.gguf", 3))
    code = int(arguments == ("diff",))
    plain = subprocess.run(
        command(*arguments, *files), env=environment(), capture_output=True, check=False
    )
    assert plain.returncode == code, plain.stderr
    assert rb"\udcff" in plain.stdout or rb"\udcfe" in plain.stdout
    plain.stdout.decode("utf-8")
    found = subprocess.run(
        command(*arguments, "--json", *files), env=environment(), capture_output=True, check=False
    )
    text = json.dumps(json.loads(found.stdout.decode("utf-8")))
    assert r"\udcff" in text or r"\udcfe" in text


def test_json_text_is_utf8_and_comes_back():
    value = {as_text(KEY): [as_text(TEXT), "é → 漢字"]}
    text = json_text(value)
    text.encode("utf-8")
    assert json.loads(text) == value
    assert "é → 漢字" in text


def test_verify_warns_of_each(model):
    said = call("verify", model).out
    assert said.count("is not valid UTF-8") == 3


def test_mended(tmp_path, model):
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    call("meta", "unset", os.fsdecode(KEY), model, one)
    assert KEY not in one.read_bytes()[: read_header(one).data_offset[0]].split(b"ggsurgery.")[0]
    assert as_text(KEY) not in read_header(one).metadata
    call("meta", "set", "general.author", "café", one, two)
    assert read_header(two).get("general.author") == "café"
    assert call("verify", two).out.count("is not valid UTF-8") == 1


def test_new_names_must_be_unicode(tmp_path, model):
    files = (model, tmp_path / "out.gguf")
    for arguments in (
        ("meta", "set", "new\udcff", "x"),
        ("meta", "set", "a.b", "x\udcff"),
        ("delete", "--layer", "0", "--name", "\udcff"),
    ):
        assert "not valid Unicode" in error_line(*arguments, *files)
