"""What the linter finds in templates with a known fault."""

from __future__ import annotations

import pytest

from ggsurgery.chat.families import families, family
from ggsurgery.chat.lint import Report, lint
from ggsurgery.chat.render import TemplateError
from ggsurgery.chat.vocabulary import Vocabulary
from ggsurgery.ggufio.header import read_header
from tests._shapes import TINY, TOKENS, write_shapes

CHATML = family("chatml").jinja


def found(report: Report, level: str) -> dict[str, str]:
    return {f.check: f.message for f in report.findings if f.level == level}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    path = tmp_path_factory.mktemp("lint") / "tiny.gguf"
    return Vocabulary.of(read_header(write_shapes(path, TINY, tokens=TOKENS)))


def test_the_built_in_families_have_no_error() -> None:
    for one in families().values():
        report = lint(one.jinja)
        assert report.ok, report.findings
        assert report.match is not None
        assert report.match.family.name == one.name


def test_a_dropped_message_is_an_error() -> None:
    report = lint(
        "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}"
        "{{ m.content }}{% endif %}{% endfor %}"
    )
    assert found(report, "error") == {"says everything": "drops a message of the assistant"}
    assert not report.ok


def test_a_template_that_fails_names_the_conversation() -> None:
    report = lint("{{ messages[0].content + messages[1].content }}")
    errors = [f for f in report.findings if f.level == "error" and f.check == "renders"]
    assert [f.conversation for f in errors] == ["single", "code"]
    assert "fails on one question" in errors[0].message
    with pytest.raises(TemplateError, match="line 1"):
        lint("{% if %}")


def test_marks_that_the_vocabulary_lacks(vocabulary: Vocabulary) -> None:
    assert "special tokens" not in found(lint(CHATML, vocabulary), "error")
    llama = found(lint(family("llama3").jinja, vocabulary), "error")
    assert "is not a token of this vocabulary" in llama["special tokens"]
    qwen3 = found(lint(family("qwen3").jinja, vocabulary), "note")
    assert "not tokens: <tools>" in qwen3["special tokens"]


def test_an_end_of_turn_that_ends_nothing(vocabulary: Vocabulary) -> None:
    assert "end of turn" not in found(lint(CHATML, vocabulary), "warning")
    other = CHATML.replace("<|im_end|>", "<|endoftext|>")
    message = found(lint(other, vocabulary), "warning")["end of turn"]
    assert "followed by <|endoftext|>" in message
    assert "declared: <|im_end|>" in message
    plain = found(lint(family("plain").jinja, vocabulary), "note")
    assert "stop text" in plain["end of turn"]


def test_thinking_that_cannot_be_switched() -> None:
    dead = CHATML + "{# enable_thinking <think> #}"
    report = lint(dead)
    assert "changes nothing" in found(report, "warning")["thinking"]
    assert found(report, "note")["thinking"] == "thinking cannot be switched off"


def test_arguments_taken_as_text_only() -> None:
    template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    report = lint(template)
    assert "JSON text only" in found(report, "note")["tool arguments"]
    assert report.prompts["tool-result"] is not None


def test_a_capability_that_the_rewrite_loses() -> None:
    template = CHATML + "{# tools #}"
    assert "loses tools" in found(lint(template), "warning")["ollama"]
    assert lint(template).to_json()["ollama_capabilities"] == ["completion", "tools"]
