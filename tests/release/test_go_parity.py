"""The Modelfile templates, run by Go, give the tokens of the Jinja templates.

Compared token for token, as the tokenizer of a real vocabulary of the family sees the two
prompts. Where Ollama's language cannot say it, the family declares so, and the test holds it
to its word: no difference undeclared, no declared difference that is none.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggsurgery.chat.conversations import CONVERSATIONS, Conversation
from ggsurgery.chat.families import REASONS, Family, families, family
from ggsurgery.chat.ollama import of_go, thinking_marks
from ggsurgery.chat.render import TemplateError
from tests._llama_source import llama_source
from tests.chat.test_families import ORIGINALS, original
from tests.release._go import go_templates
from tests.release._vocabulary import Tokenizer

#: A real vocabulary for each family (llama.cpp's models/ggml-vocab-NAME.gguf).
VOCABULARIES = {
    "chatml": "qwen2",
    "smollm": "qwen2",
    "qwen2": "qwen2",
    "qwen3": "qwen35",
    "llama3": "llama-bpe",
    "gemma3": "gemma-4",
    "mistral": "llama-spm",
    "phi": "phi-3",
    "deepseek": "deepseek-llm",
    "plain": "gpt-2",
}
FAMILIES = sorted(VOCABULARIES)


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], dict[str, Any]]:
    pairs = [(f, c) for f in families().values() for c in CONVERSATIONS]
    jobs = [{"template": f.go, **c.to_ollama()} for f, c in pairs]
    return {(f.name, c.id): r for (f, c), r in zip(pairs, go_templates(jobs), strict=True)}


def jinja(one: Family, conversation: Conversation, tokenizer: Tokenizer) -> str | None:
    """The prompt of the maker's template where there is one, else of the family's."""
    template = one.jinja
    if one.name in ORIGINALS and one.name not in ("gemma3", "deepseek"):
        template = original(ORIGINALS[one.name])
    eos = "<｜end▁of▁sentence｜>" if one.name == "deepseek" else "</s>"
    try:
        return conversation.render(template, bos_token=tokenizer.bos, eos_token=eos)
    except TemplateError as error:
        assert error.refused
        return None


@pytest.mark.parametrize("name", FAMILIES)
def test_go_gives_the_same_tokens(name: str, results: dict[Any, dict[str, Any]]) -> None:
    one = family(name)
    tokenizer = Tokenizer(llama_source() / f"models/ggml-vocab-{VOCABULARIES[name]}.gguf")
    differs: dict[str, str] = {}
    for conversation in CONVERSATIONS:
        result = results[name, conversation.id]
        assert result["error"] == "", conversation.id
        theirs = jinja(one, conversation, tokenizer)
        if theirs is None:
            differs[conversation.id] = "refusal"
        elif tokenizer.prompt(theirs) != tokenizer.prompt(result["text"]):
            differs[conversation.id] = why(theirs.removeprefix(tokenizer.bos), result["text"])
    assert differs == dict(one.differs)
    assert set(differs.values()) <= set(REASONS)
    assert len(CONVERSATIONS) - len(differs) >= 8


def why(jinja_prompt: str, go_prompt: str) -> str:
    """Which of the declared reasons makes two prompts differ; `unknown` if none explains it."""
    if sorted_json(jinja_prompt) == sorted_json(go_prompt):
        return "json"
    if "First.\n\nSecond." in go_prompt:
        return "joined"
    if "".join(jinja_prompt.split()) == "".join(go_prompt.split()):
        return "trim"
    return "unknown"


def sorted_json(text: str) -> str:
    """A text with every JSON value in it written in one form."""
    decoder, out, at = json.JSONDecoder(), "", 0
    while at < len(text):
        if text[at] in '{["':
            try:
                value, at = decoder.raw_decode(text, at)
                out += json.dumps(value, sort_keys=True)
                continue
            except ValueError:
                pass
        out += text[at]
        at += 1
    return out


def test_the_capability_prediction_reads_as_go_reads(results: dict[Any, dict[str, Any]]) -> None:
    expected = {
        "qwen3": ("completion", "tools", "thinking"),
        "deepseek": ("completion", "thinking"),
        **dict.fromkeys(("qwen2", "llama3", "mistral"), ("completion", "tools")),
    }
    for one in families().values():
        seen = results[one.name, "single"]
        assert of_go(one.go).names == expected.get(one.name, ("completion",))
        assert ("tools" in seen["fields"]) == of_go(one.go).tools
        assert thinking_marks(one.go) == (seen["open"], seen["close"])


HARD = [
    "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}",
    '{{- range .Messages }}{{ "}} .Tools {{" }}{{ end -}}  ',
    "{{/* .Tools and }} .Thinking */}}{{ range .Messages }}a{{ .Thinking }}b{{ end }}",
    "{{ range .Messages }}{{ if .Thinking -}} <t> {{- .Thinking }} </t> {{ end }}x{{ end }}",
    "{{ range $m := .Messages }}{{ $m.Thinking }}{{ end }}",
    "{{ range $.Messages }}<t>{{ .Thinking }}</t>{{ end }}",
    "{{ range .Messages }}{{ range .ToolCalls }}<t>{{ .Thinking }}</t>{{ end }}{{ end }}",
    "{{ range .Messages }}{{ if eq .Role `a` }}p{{ else if .Thinking }}<a>{{ .Thinking }}</a>"
    "{{ else }}q{{ end }}{{ end }}",
    "{{ range .Messages }}{{ with .Thinking }}<a>{{ . }}</a>{{ end }}z{{ end }}",
]


@pytest.mark.parametrize("template", HARD)
def test_the_reader_of_go_templates_agrees_with_go(template: str) -> None:
    (seen,) = go_templates([{"template": template, "prompt": "p", "suffix": "s"}])
    assert seen["error"] == ""
    assert thinking_marks(template) == (seen["open"], seen["close"])
    found = of_go(template)
    assert found.tools == ("tools" in seen["fields"])
    assert found.insert == ("suffix" in seen["fields"])


@pytest.mark.parametrize("template", ["{{ if .A }}", "{{ end }}", "{{ range .A }}{{ else }}"])
def test_broken_go_templates_are_named(template: str) -> None:
    (seen,) = go_templates([{"template": template}])
    assert seen["error"]
    with pytest.raises(TemplateError):
        of_go(template)
