"""The conversations that a chat template is tried on.

Each one tests one thing that a template can get wrong. They use the format of the OpenAI API and
transformers; `to_ollama` converts a conversation to the form that Ollama passes to a Go template.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .render import render

#: The date of all trials, so that templates that print the date have reproducible output.
TRIAL_DAY = datetime(2024, 7, 26, 12)


@dataclass(frozen=True)
class Conversation:
    """One trial: an id, what it tests, and the conversation itself.

    `needs` names the feature that a template may lack without being faulty: `tools`, `thinking`,
    `prefix`, `system`.
    """

    id: str
    what: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool | None = None
    continue_final: bool = False
    needs: frozenset[str] = field(default=frozenset())

    def render(
        self, template: str, *, bos_token: str = "", eos_token: str = "", now: datetime = TRIAL_DAY
    ) -> str:
        """Render with a Jinja template.

        Raises:
            TemplateError: the template fails on the conversation or refuses it.
        """
        return render(
            template,
            self.messages,
            tools=self.tools or None,
            continue_final_message=self.continue_final,
            bos_token=bos_token,
            eos_token=eos_token,
            enable_thinking=self.thinking,
            now=now,
        )

    def to_ollama(self) -> dict[str, Any]:
        """The same conversation with the field names of Ollama's chat API."""
        messages = []
        for message in self.messages:
            item: dict[str, Any] = {
                "role": message["role"],
                "content": message.get("content") or "",
            }
            if message.get("reasoning_content"):
                item["thinking"] = message["reasoning_content"]
            if message.get("tool_calls"):
                item["tool_calls"] = [
                    {"id": call["id"], "function": call["function"]}
                    for call in message["tool_calls"]
                ]
            if message["role"] == "tool":
                item["tool_name"] = message["name"]
                item["tool_call_id"] = message["tool_call_id"]
            messages.append(item)
        return {"messages": messages, "tools": list(self.tools), "think": self.thinking}


def _say(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _call(name: str, arguments: dict[str, Any], id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(name: str, content: str, id: str) -> dict[str, Any]:
    return {"role": "tool", "name": name, "tool_call_id": id, "content": content}


WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place today.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the place"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time now.",
        "parameters": {"type": "object", "properties": {}},
    },
}

_SYSTEM = _say("system", "You are a careful assistant. Answer in one sentence.")
_ASK = _say("user", "What is the capital of France?")
_PARIS = _say("assistant", "Paris.")
_ASK_WEATHER = _say("user", "Do I need an umbrella in Oslo?")
_TOOLS = frozenset({"tools"})
_THINKING = frozenset({"thinking"})
_SYSTEM_NEEDED = frozenset({"system"})

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation("single", "one question", (_ASK,)),
    Conversation("system", "a system prompt", (_SYSTEM, _ASK), needs=_SYSTEM_NEEDED),
    Conversation(
        "turns",
        "several turns",
        (
            _SYSTEM,
            _ASK,
            _PARIS,
            _say("user", "And of Italy?"),
            _say("assistant", "Rome."),
            _say("user", "Which of them is larger?"),
        ),
        needs=_SYSTEM_NEEDED,
    ),
    Conversation(
        "empty-system", "an empty system prompt", (_say("system", ""), _ASK), needs=_SYSTEM_NEEDED
    ),
    Conversation(
        "non-ascii",
        "Cyrillic, Chinese, accents, emoji",
        (
            _say("user", "Как сказать «спасибо» по-китайски? 谢谢 – naïve café 🙂"),
            _say("assistant", "谢谢 (xièxie)."),
            _say("user", "Ещё раз, пожалуйста!"),
        ),
    ),
    Conversation(
        "code",
        "markup, braces, quotes and line breaks in the text",
        (_say("user", 'Why does {{ x }} print <b>"a & b"</b>?\n\n```c\nint main() {}\n```'),),
    ),
    Conversation(
        "empty-answer",
        "an answer without a word in the history",
        (_ASK, _say("assistant", ""), _say("user", "Well?")),
    ),
    Conversation(
        "template-marks",
        "the marks of templates and of chats as plain text",
        (
            _say("user", "What do `{{ .Content }}`, {% if x %}, {{- end -}} and \\n do?"),
            _say("assistant", '`{{ .Content }}` prints; {{/* this */}} does not.\n\n"""\n'),
            _say("user", "And \u2028, \ufeff, \u200d or e\u0301?"),
        ),
    ),
    Conversation(
        "tools",
        "tools on offer",
        (_SYSTEM, _ASK_WEATHER),
        (WEATHER, CLOCK),
        needs=_TOOLS | _SYSTEM_NEEDED,
    ),
    Conversation(
        "tool-result",
        "a tool call and its result",
        (
            _ASK_WEATHER,
            _say("assistant", "", tool_calls=[_call("get_weather", {"city": "Oslo"}, "call00001")]),
            _result("get_weather", "rain, 7 °C", "call00001"),
        ),
        (WEATHER,),
        needs=_TOOLS,
    ),
    Conversation(
        "tool-history",
        "a tool call from before, no tools on offer any more",
        (
            _ASK_WEATHER,
            _say(
                "assistant",
                "",
                tool_calls=[_call("get_weather", {"city": "Oslo", "days": 2}, "call00001")],
            ),
            _result("get_weather", "rain, 7 °C", "call00001"),
            _say("assistant", "Take one."),
            _say("user", "Thanks!"),
        ),
        needs=_TOOLS,
    ),
    Conversation(
        "tool-results",
        "two calls at once, then an answer and a new question",
        (
            _say("user", "Umbrella in Oslo? And what time is it?"),
            _say(
                "assistant",
                "",
                tool_calls=[
                    _call("get_weather", {"city": "Oslo"}, "call00001"),
                    _call("get_time", {}, "call00002"),
                ],
            ),
            _result("get_weather", "rain, 7 °C", "call00001"),
            _result("get_time", "12:30", "call00002"),
            _say("assistant", "Take one; it is half past twelve."),
            _say("user", "Thanks!"),
        ),
        (WEATHER, CLOCK),
        needs=_TOOLS,
    ),
    Conversation(
        "thinking-history",
        "an earlier answer came with its thoughts",
        (
            _ASK,
            _say("assistant", "Paris.", reasoning_content="France's capital is well known."),
            _say("user", "And of Italy?"),
        ),
        needs=_THINKING,
    ),
    Conversation(
        "thinking-tool",
        "thoughts before a tool call of the same turn",
        (
            _ASK_WEATHER,
            _say(
                "assistant",
                "",
                reasoning_content="I have to look up the weather.",
                tool_calls=[_call("get_time", {}, "call00001")],
            ),
            _result("get_time", "12:30", "call00001"),
        ),
        (CLOCK,),
        needs=_TOOLS | _THINKING,
    ),
    Conversation(
        "tool-text",
        "quotes, markup and braces in a call's arguments and in its result",
        (
            _ASK_WEATHER,
            _say(
                "assistant",
                "",
                tool_calls=[_call("get_weather", {"city": 'São "Tomé" <{1}> & `x`'}, "call00001")],
            ),
            _result(
                "get_weather", '{"sky": "a <b> & \\"c\\"", "°C": 7}\n{{ .Prompt }}', "call00001"
            ),
        ),
        (WEATHER,),
        needs=_TOOLS,
    ),
    Conversation(
        "tool-chain",
        "thoughts, a call, its result, more thoughts and another call",
        (
            _SYSTEM,
            _ASK_WEATHER,
            _say(
                "assistant",
                "",
                reasoning_content="The weather first.",
                tool_calls=[_call("get_weather", {"city": "Oslo"}, "call00001")],
            ),
            _result("get_weather", "rain, 7 °C", "call00001"),
            _say(
                "assistant",
                "",
                reasoning_content="Now the time.",
                tool_calls=[_call("get_time", {}, "call00002")],
            ),
            _result("get_time", "12:30", "call00002"),
        ),
        (WEATHER, CLOCK),
        needs=_TOOLS | _THINKING | _SYSTEM_NEEDED,
    ),
    Conversation("thinking-on", "thinking asked for", (_ASK,), thinking=True, needs=_THINKING),
    Conversation("thinking-off", "thinking switched off", (_ASK,), thinking=False, needs=_THINKING),
    Conversation(
        "prefix",
        "the assistant's answer has begun and is to be continued",
        (_SYSTEM, _ASK, _say("assistant", "The capital of France is")),
        continue_final=True,
        needs=frozenset({"prefix", "system"}),
    ),
    Conversation(
        "whitespace",
        "white space around a message",
        (_say("user", "  indented question\n"), _say("assistant", "yes \n"), _say("user", " so?")),
    ),
    Conversation(
        "user-twice",
        "two messages of the user in a row",
        (_say("user", "First."), _say("user", "Second.")),
    ),
    Conversation(
        "late-system",
        "a system message in the middle",
        (_ASK, _PARIS, _say("system", "From now on answer in French."), _say("user", "And Italy?")),
        needs=_SYSTEM_NEEDED,
    ),
)

BY_ID: dict[str, Conversation] = {c.id: c for c in CONVERSATIONS}
