"""What a file says of itself stays text: on a card, in a report, in YAML, on a terminal.

A hostile text in any field must leave the structure as an ordinary word leaves it: the same
headings, tables, links and tags, by parsers that were not written here. Modelfiles have their
own tests in tests/release/test_modelfile.py.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from gguf.constants import GGUFValueType

from ggsurgery.chat.families import family
from ggsurgery.errors import one_line, printable
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.types import Header, Value
from ggsurgery.measure.results.facts import ModelFacts
from ggsurgery.measure.results.result_files import Results
from ggsurgery.measure.results.score import Score
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.present.markdown import code, plain
from ggsurgery.present.table import Table
from ggsurgery.release.card import model_card
from ggsurgery.release.modelfile import chat_of
from ggsurgery.release.request import ReleaseFile, Request
from ggsurgery.report.compute import compute_report
from ggsurgery.report.html import render_html
from ggsurgery.report.markdown import render_markdown
from ggsurgery.surgery.prepare import prepare
from tests._command import call, command, environment
from tests._needs import needs_package
from tests._shapes import TINY, TOKENS, write_shapes

HOSTILE = (
    "# Heading\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n",
    "<script>alert(1)</script>",
    "<!-- ",
    "</td></table><h1>x",
    '" onload="x',
    "&lt;b&gt;&#60;",
    "x\n---\nlicense: mit\n---\n# y",
    "[x](https://evil.example)",
    "![x](https://evil.example/x)",
    "[x]: https://evil.example",
    "a|b",
    "a\\|b",
    "a\\\\|b",
    "`code` ``x",
    "```\nfence",
    "~~~\nfence",
    "**bold** _x_ __y__ ~~z~~",
    "- item",
    "+ item",
    "* item",
    "1. item",
    "12) item",
    "> quote",
    "===",
    "---",
    "***",
    "    indented",
    "a  \nb",
    "\\",
    "x\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe",
    "a\u200bb",
    "x\r\ny",
    "\x9b2J",
    "$x^2$",
    "<https://evil.example>",
    '"""',
    "'",
    ": - {a: [b",
)
WORD = "word"


def structure(markdown: str) -> list[str]:
    """The blocks and inline marks that a Markdown parser sees, without their texts."""
    parser = needs_package("markdown_it", extra="dev").MarkdownIt("commonmark").enable("table")
    found = []
    for token in parser.parse(markdown):
        found.append(f"{token.type} {token.tag} {dict(token.attrs)}")
        if token.type in ("fence", "code_block"):
            found.append(token.content)
        found += [
            f"- {child.type} {dict(child.attrs)}"
            for child in token.children or ()
            if child.type != "text"
        ]
    return found


def of_type(value: Any) -> Value:
    if isinstance(value, list):
        return Value.of(value, GGUFValueType.ARRAY, GGUFValueType.STRING)
    return Value.of(value, GGUFValueType.STRING)


def header_with(text: str, path: Path) -> Header:
    """A model whose header says the text wherever it may say one, cut once from such a source."""
    source = write_shapes(
        path / "in.gguf", TINY, tokens=TOKENS, chat_template=family("qwen3").jinja
    )
    recipe = Recipe((step("delete", layer="2"),))
    with prepare(recipe, [source]) as operation:
        operation.write(path / "cut.gguf")
    header = read_header(path / "cut.gguf")
    texts = {
        "general.name": text,
        "general.license": text,
        "general.quantized_by": text,
        "general.languages": [text],
        "general.tags": [text],
        "ggsurgery.version": text,
        "general.base_model.0.repo_url": f"https://huggingface.co/{text}",
        "general.base_model.0.name": text,
        "ggsurgery.sources": [text],
        "quantize.imatrix.file": text,
        "quantize.imatrix.dataset": text,
    }
    return replace(
        header, metadata={**header.metadata, **{k: of_type(v) for k, v in texts.items()}}
    )


def results_with(text: str, file: str) -> Results:
    facts = {"text": text, "n_ctx": text}
    scores = (
        Score("perplexity", 9.0, 0.5, 99, facts),
        Score("kl_mean", 0.5, 0.1, 99, facts),
        Score("acc", 0.5, 0.1, 99, {"task": text}),
    )
    controls = (
        {
            "name": text,
            "kind": text,
            "bytes": 1,
            "layers": [],
            "score": 1.0,
            "p_corrected": None,
            "interval": None,
            "verdict": text,
        },
    )
    model = ModelFacts(text, file, 100, 5, 1000, text)
    return Results(model, scores, controls=controls, verdict=text, baseline=text)


def laco_with(text: str) -> dict[str, Any]:
    """Statistics of LaCo; its numbers are formatted, everything else is printed."""
    settings = {
        "merge_layers": 2,
        "lowest": 0,
        "highest": 5,
        "interval": 1,
        "threshold": 0.5,
        "max_compression": 0.3,
        "variant": "paper",
    }
    attempt = {
        "iteration": text,
        "base": text,
        "merged": [text],
        "similarity": None,
        "note": text,
        "accepted": False,
    }
    return {
        "settings": settings,
        "layers": [text, text],
        "removed": text,
        "removed_share": 0.1,
        "merges": text,
        "rejected": text,
        "iterations": text,
        "attempts": [attempt],
        "similarity": {"mean": 0.5, "min": 0.5, "max": 0.5, "texts": text},
    }


def card_with(text: str, path: Path) -> str:
    header = header_with(text, path)
    results = results_with(text, "cut-Q8_0.gguf")
    file = ReleaseFile(header.path, "cut-Q8_0.gguf", "Q8_0", header, results)
    request = Request(
        (header.path,),
        original=results,
        results=(results,),
        laco=laco_with(text),
        said={"file": text, "question": text, "text": text},
    )
    chat = replace(chat_of(header), notes=(text,))
    return model_card(request, [file], file, "the only file", chat, text, (text,))


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> str:
    needs_package("huggingface_hub", extra="hub")
    return card_with(WORD, tmp_path_factory.mktemp("card"))


def split(card: str) -> tuple[dict[str, Any], str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("text", HOSTILE)
def test_a_card_keeps_its_structure(text: str, ordinary: str, tmp_path: Path) -> None:
    front, body = split(card_with(text, tmp_path))
    wanted, ordinary_body = split(ordinary)
    assert structure(body) == structure(ordinary_body)
    # the word is a name on the Hub, the hostile texts are none
    assert wanted.pop("base_model") == WORD and wanted.pop("base_model_relation") == "finetune"
    assert front.keys() == wanted.keys()
    (index,) = front["model-index"]
    assert front["quantized_by"] == index["name"] == one_line(text)
    assert front["license"] == "other"
    assert front["license_name"] == one_line(text).lower().replace(" ", "-")
    assert front["tags"] == ["gguf", one_line(text), "ggsurgery"]
    assert all(c.isprintable() for c in body.replace("\n", ""))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_report_keeps_its_structure(text: str) -> None:
    def made(word: str) -> tuple[list[str], list[str]]:
        results = [results_with(word, word), replace(results_with(word, word), suite=None)]
        report = compute_report(results, title=word)
        return structure(render_markdown(report)), tags(render_html(report))

    assert made(text) == made(WORD)


def tags(page: str) -> list[str]:
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(f"{tag} {sorted(name for name, _ in attrs)}")

        def handle_endtag(self, tag: str) -> None:
            found.append(f"/{tag}")

        def handle_comment(self, data: str) -> None:
            found.append("comment")

    Reader().feed(page)
    return found


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("written", [plain, code])
def test_running_text_shows_as_it_is(text: str, written: Callable[[object], str]) -> None:
    """At the start of a line, in a list, a heading, a quotation and a table: the same text."""
    markdown = needs_package("markdown_it", extra="dev").MarkdownIt("commonmark").enable("table")
    shown = written(text)
    for around in ("{}", "# {}", "- {}", "> {}", "a {} b"):
        document = around.format(shown)
        assert structure(document) == structure(around.format(written(WORD)))
        inline = [t for t in markdown.parse(document) if t.type == "inline"]
        read = "".join(child.content for t in inline for child in t.children or ())
        assert read == around.strip("#->").strip().format(one_line(text))

    def cells(word: object) -> str:
        return Table(["a", "b"], [(word, "x"), ("y", word)]).markdown()

    assert structure(cells(shown)) == structure(cells(written(WORD)))


#: One text with everything that a terminal obeys: colours, titles, cursor, C1, line order.
STEER = "\x1b[31m\x1b]0;t\x07\x9b2J\u202e\rx\n{{ bos_token }}\n"
_OBEYED = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e]")


@pytest.fixture(scope="module")
def steering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose name, tokens and chat template try to steer a terminal."""
    folder = tmp_path_factory.mktemp("steer")
    tokens = [t if t != "ab" else f"ab{STEER}" for t in TOKENS]
    path = write_shapes(
        folder / "in.gguf",
        replace(TINY, name=STEER),
        tokens=tokens,
        chat_template=STEER,
        license=STEER,
    )
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect",),
        ("inspect", "--tensors"),
        ("meta", "show"),
        ("meta", "show", "--json"),
        ("meta", "get", "tokenizer.ggml.tokens"),
        ("inspect", "--json"),
        ("template", "lint"),
        ("delete", "--layer", "1", "--dry-run"),
        ("meta", "get", "general.name", "--json"),
        ("meta", "set", "general.name", STEER, "--dry-run"),
    ],
)
def test_no_command_passes_on_what_steers_a_terminal(
    arguments: tuple[str, ...], steering: Path, tmp_path: Path
) -> None:
    out = [tmp_path / "out.gguf"] if arguments[0] in ("delete",) or "set" in arguments else []
    said = call(*arguments, steering, *out, code=1 if "lint" in arguments else 0)
    assert not _OBEYED.search(said.out + said.err)
    if "--json" in arguments and "meta" in arguments:
        found = said.json["general.name"]["value"] if "show" in arguments else said.json
        assert found == STEER


@pytest.mark.parametrize(
    "arguments",
    [("meta", "get", "general.name"), ("template", "show"), ("template", "render", "--user", "Hi")],
)
def test_exact_in_a_pipe_and_escaped_on_a_terminal(
    arguments: tuple[str, ...], steering: Path
) -> None:
    line = command(*arguments, steering)
    piped = subprocess.run(line, env=environment(), capture_output=True, check=True).stdout
    wanted = STEER.replace("{{ bos_token }}", "<s>") if "render" in arguments else STEER
    if "render" in arguments:  # jinja2 reads every line break as \n and drops the last one
        wanted = wanted.replace("\r", "\n")
    assert piped == wanted.encode()
    ours, theirs = pty.openpty()
    with subprocess.Popen(line, env=environment(), stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        while True:
            try:
                block = os.read(ours, 1 << 16)
            except OSError:  # the terminal's other end is closed
                break
            if not block:
                break
            shown += block
    os.close(ours)
    assert child.returncode == 0
    text = shown.decode().replace("\r\n", "\n")  # the terminal's own line ends
    assert text == printable(wanted, "\n")


def test_a_terminals_error_line_is_escaped(steering: Path, tmp_path: Path) -> None:
    odd = tmp_path / "x\x1b[2J.gguf"
    odd.write_bytes(steering.read_bytes())
    said = call("meta", "get", "no\x1b[2J", odd, code=1)
    assert not _OBEYED.search(said.err)
