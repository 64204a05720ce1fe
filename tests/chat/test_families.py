"""The built-in families print what the makers' own templates print."""

from __future__ import annotations

import pytest

from ggsurgery.chat.conversations import CONVERSATIONS, TRIAL_DAY
from ggsurgery.chat.families import Match, families, family, outcomes, recognise
from ggsurgery.chat.render import render
from ggsurgery.errors import FormatError
from tests._llama_source import llama_source
from tests._needs import needs_package

#: Family → the maker's template, as llama.cpp's tests keep it.
ORIGINALS = {
    "qwen2": "Qwen-Qwen2.5-7B-Instruct",
    "qwen3": "Qwen-Qwen3-0.6B",
    "llama3": "meta-llama-Llama-3.1-8B-Instruct",
    "mistral": "mistralai-Mistral-Nemo-Instruct-2407",
    "phi": "microsoft-Phi-3.5-mini-instruct",
    "deepseek": "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "gemma3": "google-gemma-2-2b-it",
}
#: Conversations on which a family knowingly differs from that template.
KNOWN = {
    # Gemma 2 refuses the system prompt that Gemma 3 takes
    "gemma3": {"system", "turns", "empty-system", "tools", "prefix"},
    # the maker's form drops the call itself from the history; the family says it has none
    "deepseek": {
        "tool-result",
        "tool-history",
        "tool-results",
        "thinking-tool",
        "tool-text",
        "tool-chain",
    },
}
EOS = "</s>"


def original(name: str) -> str:
    return (llama_source() / "models/templates" / f"{name}.jinja").read_text("utf-8")


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_family_prints_what_the_makers_template_prints(name: str) -> None:
    eos = "<｜end▁of▁sentence｜>" if name == "deepseek" else EOS
    ours = outcomes(family(name).jinja, bos_token="<s>", eos_token=eos)
    theirs = outcomes(original(ORIGINALS[name]), bos_token="<s>", eos_token=eos)
    assert {i for i in ours if ours[i] != theirs[i]} == KNOWN.get(name, set())
    assert ours["single"] and ours["turns"]


def test_llama_cpp_s_own_formats_agree() -> None:
    """llama_chat_apply_template knows some families by heart: an independent second opinion."""
    import ctypes

    import llama_cpp

    talk = [c for c in CONVERSATIONS if c.id in ("single", "turns", "system", "non-ascii")]
    names = {"chatml": b"chatml", "gemma3": b"gemma", "phi": b"phi3"}
    for name, known in names.items():
        for conversation in talk:
            pairs = [(m["role"].encode(), m["content"].encode()) for m in conversation.messages]
            chat = (llama_cpp.llama_chat_message * len(pairs))(*pairs)
            buffer = ctypes.create_string_buffer(8192)
            n = llama_cpp.llama_chat_apply_template(known, chat, len(pairs), True, buffer, 8192)
            assert 0 < n < 8192
            assert conversation.render(family(name).jinja) == buffer.raw[:n].decode()


def test_transformers_renders_the_same() -> None:
    utils = needs_package("transformers.utils.chat_template_utils", extra="dev")
    for name in ORIGINALS.values():
        template = original(name)
        for conversation in CONVERSATIONS:
            if conversation.continue_final:  # transformers wants the tokenizer for that
                continue
            more = {"bos_token": "<s>", "eos_token": EOS}
            if conversation.thinking is not None:
                more["enable_thinking"] = conversation.thinking
            tools = list(conversation.tools) or None
            try:
                (theirs,), _ = utils.render_jinja_template(
                    [list(conversation.messages)],
                    tools=tools,
                    chat_template=template,
                    add_generation_prompt=True,
                    **more,
                )
            except Exception:  # noqa: BLE001  (jinja2's and Python's own: theirs refuses)
                with pytest.raises(FormatError):
                    render(template, conversation.messages, tools=tools, **more)
                continue
            assert render(template, conversation.messages, tools=tools, **more) == theirs


def known(name: str) -> Match:
    match = recognise(original(name), bos_token="<s>", eos_token=EOS)
    assert match is not None
    return match


def test_templates_are_recognised_by_what_they_print() -> None:
    for name in ("qwen2", "qwen3", "llama3", "mistral", "phi"):
        match = known(ORIGINALS[name])
        assert match.family.name == name
        assert match.exact and match.usable
    gemma2 = known("google-gemma-2-2b-it")
    assert gemma2.family.name == "gemma3"
    assert gemma2.usable and not gemma2.exact
    assert "system" in gemma2.refused
    today = known("meta-llama-Llama-3.2-3B-Instruct")
    assert today.family.name == "llama3"
    assert today.dated and not known(ORIGINALS["llama3"]).dated
    assert recognise(original("openai-gpt-oss-120b")) is None


def test_every_family_is_recognised_as_itself() -> None:
    for one in families().values():
        match = recognise(one.jinja, bos_token="<s>", eos_token=EOS)
        assert match is not None
        assert match.family.name == one.name
        assert match.exact


def test_an_unknown_family_offers_near_names() -> None:
    with pytest.raises(FormatError, match="Did you mean qwen3"):
        family("qwen-3")
    assert TRIAL_DAY.year == 2024
