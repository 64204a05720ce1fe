"""`ggsurgery template …` on a small file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ggsurgery.chat.families import family
from ggsurgery.cli import cli
from ggsurgery.errors import FormatError
from ggsurgery.ggufio.header import read_header
from tests._gguf import Raw, kv_array, kv_text, kv_u32, text
from tests._shapes import TINY, TOKENS, write_shapes


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["template", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "in.gguf"
    return write_shapes(path, TINY, tokens=TOKENS, chat_template=family("chatml").jinja)


def test_set_writes_a_family_and_nothing_else_changes(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert run("set", "--family", "qwen3", model, out).exit_code == 0
    before, after = read_header(model), read_header(out)
    assert after.get("tokenizer.chat_template") == family("qwen3").jinja
    assert {t.name: (t.shape, t.type) for t in after.tensors} == {
        t.name: (t.shape, t.type) for t in before.tensors
    }
    kept = [k for k in before.metadata if k != "tokenizer.chat_template"]
    assert all(before.metadata[k] == after.metadata[k] for k in kept)
    shown = run("show", out)
    assert shown.stdout == family("qwen3").jinja
    prompt = run("render", out, "--user", "Hi", "--thinking", "off").stdout
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_set_from_a_file_refuses_one_that_does_not_compile(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for %}", encoding="utf-8")
    out = tmp_path / "out.gguf"
    result = run("set", "--from", broken, model, out)
    assert isinstance(result.exception, FormatError)
    assert str(result.exception).startswith(f"{broken}: chat template, line 1: ")
    assert str(run("lint", broken).exception).startswith(f"{broken}: chat template, line 1: ")
    assert not out.exists()
    assert run("set", model, out).exit_code == 2
    assert run("set", "--from", broken, "--family", "phi", model, out).exit_code == 2


def test_render_takes_messages_and_tools_from_files(model: Path, tmp_path: Path) -> None:
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([{"role": "user", "content": "Grüß dich"}]), encoding="utf-8")
    result = run("render", model, "--messages", chat, "--system", "Kurz.", "--json")
    assert json.loads(result.stdout)["prompt"] == (
        "<|im_start|>system\nKurz.<|im_end|>\n<|im_start|>user\nGrüß dich<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert run("render", model).exit_code == 2
    assert run("render", model, "--conversation", "no-such").exit_code == 2
    marked = tmp_path / "bom.jinja"
    marked.write_bytes(b"\xef\xbb\xbf{{ messages[0].content }}")
    assert run("render", marked, "--user", "x").stdout == "x\n"
    prefix = run("render", model, "--conversation", "prefix").stdout
    assert prefix.endswith("The capital of France is\n")


@pytest.mark.parametrize("deep", ["{% for x in y %}" * 30 + "{% endfor %}" * 30, "{{" + "(" * 9999])
def test_a_template_that_nests_too_deep(model: Path, tmp_path: Path, deep: str) -> None:
    """Python's compiler refuses what Jinja makes of it."""
    path = tmp_path / "deep.jinja"
    path.write_text(deep, encoding="utf-8")
    result = run("set", "--from", path, model, tmp_path / "out.gguf")
    assert isinstance(result.exception, FormatError)
    assert str(result.exception).startswith(f"{path}: chat template nests too deep")


def test_token_types_that_are_no_list(tmp_path: Path) -> None:
    entries = [
        kv_text("general.architecture", "llama"),
        kv_array("tokenizer.ggml.tokens", 8, 1, text("a")),
        kv_u32("tokenizer.ggml.token_type", 1),
        kv_text("tokenizer.chat_template", "x"),
    ]
    result = run("lint", Raw(entries).write(tmp_path / "a.gguf"))
    assert "token_type: the vocabulary's lists differ in length: expected 1, found 1" in str(
        result.exception
    )


def test_lint_exits_with_1_when_something_goes_wrong(model: Path, tmp_path: Path) -> None:
    good = run("lint", model)
    assert good.exit_code == 0
    assert "same prompts as chatml" in good.stdout
    bad = tmp_path / "bad.jinja"
    bad.write_text("only this", encoding="utf-8")
    result = run("lint", bad, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
    bad.write_text("{{ raise_exception('never') }}", encoding="utf-8")
    assert "errors found" in run("lint", bad).stdout


def test_a_file_without_template_says_what_to_do(tmp_path: Path) -> None:
    model = write_shapes(tmp_path / "base.gguf", TINY, tokens=TOKENS)
    result = run("show", model)
    assert "template set --family" in str(result.exception)
    missing = run("lint", tmp_path / "no-such.gguf")
    assert isinstance(missing.exception, FormatError)
