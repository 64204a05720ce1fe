"""Modelfiles: filled from the file, right for Ollama's own parser rules, rendered by Go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ggsurgery.chat.families import families, family
from ggsurgery.errors import FormatError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.types import Header
from ggsurgery.release.modelfile import chat_of, modelfile
from tests._shapes import BYTES, TINY, TOKENS, small, write_shapes
from tests.release._go import go_templates

INSTRUCTIONS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "LICENSE")


def header(tmp_path: Path, template: str | None, tokens: tuple[str, ...] = TOKENS) -> Header:
    shape = TINY if tokens is TOKENS else small("Small", 2)
    path = write_shapes(tmp_path / "m.gguf", shape, tokens=tokens, chat_template=template)
    return read_header(path)


def parsed(text: str) -> list[tuple[str, str]]:
    """A Modelfile as Ollama reads it: instructions with plain or triple-quoted arguments."""
    found = []
    rest = text
    while rest := rest.lstrip("\n"):
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        match = re.match(r'([A-Z]+) (?:"""(.*?)"""|([^\n]*))(?:\n|$)', rest, re.DOTALL)
        assert match, rest[:60]
        found.append((match[1], match[2] if match[2] is not None else match[3]))
        rest = rest[match.end() :]
    return found


@pytest.mark.parametrize("name", list(families()))
def test_every_family_gives_a_modelfile_that_parses(name: str, tmp_path: Path) -> None:
    h = header(tmp_path, None if name == "plain" else family(name).jinja)
    chat = chat_of(h)
    assert chat.match is not None
    text = modelfile(h, chat, "m-Q8_0.gguf", system="Be brief.", license="MIT\nas is")
    instructions = parsed(text)
    assert {word for word, _ in instructions} == set(INSTRUCTIONS)
    by_word = dict(instructions)
    assert by_word["FROM"] == "./m-Q8_0.gguf"
    assert by_word["TEMPLATE"] == family(name).go
    assert by_word["SYSTEM"] == "Be brief."
    assert by_word["LICENSE"] == "MIT\nas is"
    parameters = [value for word, value in instructions if word == "PARAMETER"]
    assert f"num_ctx {TINY.context}" in parameters
    assert "@" not in text.replace("TEMPLATE", "")


def test_stops_come_from_the_vocabulary(tmp_path: Path) -> None:
    h = header(tmp_path, family("qwen3").jinja)
    text = modelfile(h, chat_of(h), "m.gguf")
    assert re.findall(r'stop "(.*)"', text) == ["<|im_end|>", "<|endoftext|>"]
    foreign = header(tmp_path, family("phi").jinja)  # its <|end|> is no token here
    text = modelfile(foreign, chat_of(foreign), "m.gguf")
    assert re.findall(r'stop "(.*)"', text) == ["<|im_end|>", "<|endoftext|>"]


def test_parameters_header_before_family_given_before_both(tmp_path: Path) -> None:
    h = header(tmp_path, family("qwen3").jinja)
    text = modelfile(h, chat_of(h), "m.gguf", parameters={"temperature": 0.9, "num_ctx": 64})
    assert "PARAMETER temperature 0.9\n" in text
    assert "PARAMETER num_ctx 64\n" in text
    assert "PARAMETER top_k 20\n" in text
    for wrong in ({"temp": 1}, {"temperature": "hot"}, {"temperature": True}):
        with pytest.raises(FormatError, match="PARAMETER"):
            modelfile(h, chat_of(h), "m.gguf", parameters=wrong)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="SYSTEM cannot hold"):
        modelfile(h, chat_of(h), "m.gguf", system='a """ b')


def test_an_unknown_template_is_left_to_ollama(tmp_path: Path) -> None:
    h = header(tmp_path, "{% for m in messages %}#{{ m.role }}# {{ m.content }} {% endfor %}tools")
    chat = chat_of(h)
    assert chat.match is None
    assert chat.capabilities.names == ("completion", "tools")
    text = modelfile(h, chat, "m.gguf")
    assert "TEMPLATE" not in text
    assert "the chat template in the GGUF itself" in chat.notes[0]
    with pytest.raises(FormatError, match="prints other prompts than this family"):
        chat_of(h, "qwen3")


def test_a_lost_capability_is_said(tmp_path: Path) -> None:
    h = header(tmp_path, family("chatml").jinja + "{# tool_call #}")
    chat = chat_of(h)
    assert chat.lost == ("tools",)
    assert any("loses what the GGUF's template offers: tools" in n for n in chat.notes)


def test_fill_in_where_the_header_declares_it(tmp_path: Path) -> None:
    from ggsurgery.plan.recipe import Recipe, step
    from ggsurgery.surgery import prepare

    marks = {"pre": "<s>", "suf": "<|im_start|>", "mid": "<|endoftext|>"}
    h = header(tmp_path, family("qwen2").jinja, BYTES)
    steps = tuple(
        step("set", key=f"tokenizer.ggml.fim_{k}_token_id", value=BYTES.index(t), type="uint32")
        for k, t in marks.items()
    )
    out = tmp_path / "fim.gguf"
    with prepare(Recipe(steps), [h.path]) as operation:
        operation.write(out)
    chat = chat_of(read_header(out))
    assert chat.capabilities.names == ("completion", "tools", "insert")
    plain, filled = go_templates(
        [
            {"template": chat.go, "messages": [{"role": "user", "content": "Hi"}]},
            {"template": chat.go, "prompt": "def f(", "suffix": "return"},
        ]
    )
    assert filled["text"] == "<s>def f(<|im_start|>return<|endoftext|>"
    assert plain["text"].endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert "suffix" in filled["fields"]


def test_texts_and_numbers_that_could_be_misread(tmp_path: Path) -> None:
    h = header(tmp_path, None)
    text = modelfile(
        h, chat_of(h), "m.gguf", system="Not @LICENSE@ nor @FROM@.", license="Mine.",
        parameters={"num_ctx": 1e6, "temperature": 0.25},
    )  # fmt: skip
    found = dict(parsed(text))
    assert found["SYSTEM"] == "Not @LICENSE@ nor @FROM@." and found["LICENSE"] == "Mine."
    assert "PARAMETER num_ctx 1000000\nPARAMETER temperature 0.25\n" in text
    with pytest.raises(FormatError, match="PARAMETER temperature: expected a number"):
        modelfile(h, chat_of(h), "m.gguf", parameters={"temperature": float("nan")})
