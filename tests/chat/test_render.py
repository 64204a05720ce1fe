"""Rendering: what templates may use, what the sandbox forbids, and transformers' own result."""

from __future__ import annotations

from datetime import datetime

import pytest

from ggsurgery.chat.render import TemplateError, render

HI = [{"role": "user", "content": "Hi"}]


def test_variables_loop_controls_and_generation_tags() -> None:
    template = (
        "{%- for m in messages %}{% if m.role == 'skip' %}{% continue %}{% endif %}"
        "{% if m.role == 'stop' %}{% break %}{% endif %}"
        "[{% generation %}{{ m.content }}{% endgeneration %}]{% endfor %}"
        "{{ tools | tojson }}{{ add_generation_prompt }}{{ bos_token }}{{ enable_thinking }}"
    )
    messages = [
        {"role": "user", "content": "a"},
        {"role": "skip", "content": "b"},
        {"role": "user", "content": "é<"},
        {"role": "stop", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    text = render(template, messages, tools=[{"b": "<é>", "a": 1}], bos_token="<s>")
    assert text == '[a][é<][{"b": "<é>", "a": 1}]True<s>'
    assert render("{{ enable_thinking }}", HI, enable_thinking=False) == "False"
    assert render("{{ enable_thinking is defined }}", HI) == "False"


def test_the_date_is_the_callers() -> None:
    template = "{{ strftime_now('%d %b %Y') }}"
    assert render(template, HI, now=datetime(2026, 3, 9)) == "09 Mar 2026"


def test_raise_exception_is_told_from_a_fault() -> None:
    with pytest.raises(TemplateError, match="refuses this conversation: no system") as refused:
        render("{{ raise_exception('no system') }}", HI)
    assert refused.value.refused
    with pytest.raises(TemplateError, match="line 2") as broken:
        render("a\n{% if %}", HI)
    assert not broken.value.refused
    with pytest.raises(TemplateError):
        render("{{ messages[5].content.upper() }}", HI)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% set _ = messages[0].update({'role': 'x'}) %}{{ messages }}",
        "{{ 'x' * 999999999999 }}",
        "{{ 9 ** 99999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'xxxxxxxxxx' }}"
        "{% endfor %}{% endfor %}",
        "{{ strftime_now.__self__.year }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_hostile_templates_are_stopped(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template, HI)


def test_a_prefix_is_left_open() -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    messages = [*HI, {"role": "assistant", "content": "The answer "}]
    text = render(template, messages, continue_final_message=True)
    assert text == "<|user|>Hi<|end|><|assistant|>The answer "
    with pytest.raises(TemplateError, match="no text"):
        render(template, [{"role": "assistant", "content": None}], continue_final_message=True)
    with pytest.raises(TemplateError, match="does not print"):
        render("nothing", messages, continue_final_message=True)
