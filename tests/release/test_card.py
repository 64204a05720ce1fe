"""What the Hub and its users read first: base model, relation, makers, imatrix, commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from gguf.constants import GGUFValueType

from ggsurgery.chat.families import family
from ggsurgery.cli import cli
from ggsurgery.errors import FormatError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.types import Header, Value
from ggsurgery.plan.recipe import Recipe, Step, step
from ggsurgery.release.card import model_card
from ggsurgery.release.modelfile import chat_of
from ggsurgery.release.origin import check_origin, relation
from ggsurgery.release.request import ReleaseFile, Request
from ggsurgery.surgery.prepare import prepare
from tests._command import call, error_line
from tests._needs import needs_package
from tests._shapes import BYTES, TINY, TOKENS, small, write_shapes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("card") / "m.gguf"
    return write_shapes(
        path, replace(TINY, context=32768), tokens=TOKENS, chat_template=family("qwen3").jinja
    )


def header(path: Path, **texts: Any) -> Header:
    """The header of a file with further entries; `__` stands for a dot."""
    kinds = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32}
    more = {k.replace("__", "."): Value.of(v, kinds[type(v)]) for k, v in texts.items()}
    found = read_header(path)
    return replace(found, metadata={**found.metadata, **more})


def card(heads: list[Header], **request: Any) -> tuple[dict[str, Any], str]:
    """Front matter and text of the card of files of these headers."""
    needs_package("huggingface_hub", extra="hub")
    types = ("Q8_0", "Q4_K_M", "IQ2_M")
    files = [ReleaseFile(h.path, f"M-{t}.gguf", t, h) for h, t in zip(heads, types, strict=False)]
    asked = Request(tuple(h.path for h in heads), **request)
    text = model_card(asked, files, files[-1], "x", chat_of(heads[0]), "M")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def cut(model: Path, out: Path, *steps: Step) -> Header:
    sources = [model, model] if steps[0].operation == "blend" else [model]
    with prepare(Recipe(steps), sources) as operation:
        operation.write(out)
    return read_header(out)


def test_the_relation_to_a_base_that_is_given_follows_from_the_operations(
    model: Path, tmp_path: Path
) -> None:
    request = Request((model,), base_model="org/base")
    named = step("set", key="general.name", value="New")
    removed = cut(model, tmp_path / "cut.gguf", step("delete", layer="2"))
    again = cut(removed.path, tmp_path / "again.gguf", named)
    blended = cut(model, tmp_path / "b.gguf", step("blend", models=2, method="linear"))
    assert relation(request, read_header(model)) == "quantized"
    assert relation(request, cut(model, tmp_path / "named.gguf", named)) == "quantized"
    assert relation(request, removed) == "finetune"
    assert relation(request, again) == "finetune"  # the earlier operation is in the history
    assert relation(request, blended) == "merge"
    assert relation(replace(request, relation="adapter"), removed) == "adapter"
    assert relation(Request((model,)), removed) is None


def test_a_base_of_the_header_is_the_base_of_the_model_that_was_quantized(model: Path) -> None:
    url = "https://huggingface.co/"
    one = header(model, general__base_model__0__repo_url=url + "org/base")
    front, body = card([one])
    assert (front["base_model"], front["base_model_relation"]) == ("org/base", "finetune")
    assert "M has 6 layers and 222,784 parameters, made from org/base." in body
    two = {f"general__base_model__{i}__repo_url": url + f"org/base{i}" for i in (0, 1)}
    front, _ = card([header(model, general__base_model__count=2, **two)])
    assert front["base_model"] == ["org/base0", "org/base1"]
    assert front["base_model_relation"] == "merge"
    front, _ = card([header(model, general__base_model__0__repo_url="https://evil.example/a/b")])
    assert "base_model" not in front and "base_model_relation" not in front


def test_who_quantized_it(model: Path) -> None:
    declared = header(model, general__quantized_by="Header")
    assert card([declared])[0]["quantized_by"] == "Header"
    assert card([declared], quantized_by="Me")[0]["quantized_by"] == "Me"
    assert "quantized_by" not in card([read_header(model)])[0]


def test_the_imatrix_is_named_with_the_types_made_with_it(model: Path) -> None:
    made = header(
        model,
        quantize__imatrix__file="m.imatrix.gguf",
        quantize__imatrix__dataset="calibration.txt",
        quantize__imatrix__chunks_count=1200,
    )
    _, body = card([read_header(model), made, made])
    assert (
        "Quantized with the importance matrix `m.imatrix.gguf` (text `calibration.txt`, "
        "1,200 chunks): Q4_K_M, IQ2_M.\n"
    ) in body
    assert "importance matrix" not in card([read_header(model)])[1]


def test_commands_for_the_hub(model: Path) -> None:
    head = read_header(model)
    _, body = card([head, head], repo="me/tiny-GGUF")
    assert "\nollama run hf.co/me/tiny-GGUF:Q4_K_M\n" in body
    assert "\nllama-cli -hf me/tiny-GGUF:Q4_K_M --jinja " in body
    _, body = card([head, head])
    assert "Ollama runs `hf.co/`, the repository's name and `:Q4_K_M` as one word" in body
    assert "OWNER" not in body and "-hf " not in body
    assert "default of 8,192 tokens; the model was trained with 32,768" in body


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a b", None, None), "base model: expected a model on the Hub, OWNER/NAME"),
        (("https://huggingface.co/a/b", None, None), "base model"),
        ((None, "tiny", None), "repository: expected OWNER/NAME, found 'tiny'"),
        ((None, "a/b/c", None), "repository"),
        ((None, "a/b\n", None), "repository"),
        ((None, None, "cousin"), "relation to the base model: expected one of quantized"),
    ],
)
def test_names_that_the_hub_cannot_have(names: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        check_origin(*names)


def test_the_command_and_the_recipe_take_them(tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    source = write_shapes(tmp_path / "s.gguf", small("Tiny", 1), tokens=BYTES, seed=5)
    out = tmp_path / "one"
    call(
        "release",
        source,
        "--out",
        out,
        "--no-memory",
        "--base-model",
        "org/base",
        "--repo",
        "me/tiny",
        "--relation",
        "merge",
        "--quantized-by",
        "Me",
    )
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: Tiny\nsource: {file: s.gguf}\nrelease: {memory: false, base_model: org/base, "
        "repo: me/tiny, relation: merge, quantized_by: Me}\n",
        encoding="utf-8",
    )
    call("run", recipe, "--out", tmp_path / "two")
    for folder in (out, tmp_path / "two/bundle"):
        front = yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])
        assert front["base_model_relation"] == "merge" and front["quantized_by"] == "Me"
        assert "hf.co/me/tiny:BF16" in (folder / "README.md").read_text(encoding="utf-8")
    recipe.write_text(recipe.read_text("utf-8").replace("me/tiny", "tiny"), encoding="utf-8")
    assert "repository: expected OWNER/NAME" in error_line("run", recipe, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    arguments = ["release", "push", str(out), "me/other", "--endpoint", "http://127.0.0.1:9"]
    pushed = CliRunner().invoke(cli, arguments)
    assert "the card's commands name the repository me/tiny: build the bundle" in pushed.stderr
