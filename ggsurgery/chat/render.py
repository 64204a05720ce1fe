"""Render a chat template the way llama.cpp and transformers do, in a sandbox.

A chat template is a Jinja program that somebody else wrote and that a downloaded file
brings along, so it runs in jinja2's immutable sandbox: no attribute that starts with an
underscore, no change to the conversation, a bound on what it may compute and print.

What a template may use beyond plain Jinja (transformers, "Chat templates"):

    raise_exception(text)        refuse the conversation
    strftime_now(format)         today, for system prompts with a date
    x | tojson(indent=…)         JSON as json.dumps writes it, not escaped for HTML
    {% break %} {% continue %}   loop controls
    {% generation %} … {% endgeneration %}   marks the assistant's text (printed as it is)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from ..errors import FormatError

#: A prompt longer than this is a template that runs away, not a conversation.
MAX_CHARACTERS = 16_000_000

Message = Mapping[str, Any]

#: Stands behind the last message while rendering; what follows it is cut off.
_CUT = "\ue000ggsurgery-cut\ue000"


class TemplateError(FormatError):
    """A chat template that does not compile, does not run, or refuses the conversation.

    `refused` tells a template's own `raise_exception` from a fault of the template.
    """

    refused = False


class _Refusal(jinja2.TemplateError):
    """raise_exception was called."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: prints its body; the marks only matter for training."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with bounds on the operators that could fill the memory."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise jinja2.exceptions.SecurityError("a chat template has no use for **")
        if operator == "%" and isinstance(left, str):  # "%99999999999d" % 1
            raise jinja2.exceptions.SecurityError("use ~ or |string instead of % formatting")
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                sequence = isinstance(text, (str, list, tuple)) and isinstance(times, int)
                if sequence and len(text) * times > MAX_CHARACTERS:
                    raise jinja2.exceptions.SecurityError("a repetition is too long")
        return super().call_binop(context, operator, left, right)


def _refuse(message: object) -> None:
    raise _Refusal(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def environment() -> jinja2.Environment:
    """The sandboxed Jinja environment that chat templates are written for."""
    env = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _refuse
    return env


@lru_cache(maxsize=64)
def _compile(template: str) -> jinja2.Template:
    return environment().from_string(template)


def compile_template(template: str) -> jinja2.Template:
    """Compile a template.

    Raises:
        TemplateError: a syntax error, with its line.
    """
    try:
        return _compile(template)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"chat template, line {error.lineno}: {error.message}",
            found=_line(template, error.lineno),
        ) from error
    except (SyntaxError, RecursionError, MemoryError) as error:  # what Jinja made is too deep
        raise TemplateError(f"chat template nests too deep: {error}") from error


def render(
    template: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    bos_token: str = "",
    eos_token: str = "",
    enable_thinking: bool | None = None,
    now: datetime | None = None,
    **variables: Any,
) -> str:
    """Render a conversation to the prompt that the model reads.

    Args:
        template: the Jinja source (`tokenizer.chat_template`).
        messages: `{"role", "content", …}`, optionally `tool_calls`, `reasoning_content`.
        tools: function descriptions in OpenAI's JSON form.
        add_generation_prompt: end with the opening of the assistant's turn.
        continue_final_message: leave the last message open, for the model to go on writing;
            excludes the generation prompt.
        bos_token, eos_token: their text, for templates that print them.
        enable_thinking: passed only if not None, so the template's own default counts.
        now: the time that `strftime_now` tells; the present if None.
        variables: passed to the template under their names.

    Raises:
        TemplateError: syntax, an unknown name used, something the sandbox forbids, a
            conversation that the template refuses (`refused` is then true).

    Example:
        >>> render("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
        ...        [{"role": "user", "content": "Hi"}])
        '<user>Hi'
    """
    compiled = compile_template(template)
    moment = now or datetime.now()
    given = [dict(m) for m in messages]
    if continue_final_message:
        add_generation_prompt = False
        given = _open_end(given)
    names: dict[str, Any] = {
        "messages": given,
        "tools": list(tools) if tools else None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "strftime_now": moment.strftime,
        **variables,
    }
    if enable_thinking is not None:
        names["enable_thinking"] = enable_thinking
    text = _run(compiled, names)
    if continue_final_message:
        text = _cut_end(text)
    return text


def _run(compiled: jinja2.Template, names: dict[str, Any]) -> str:
    parts, length = [], 0
    try:
        for part in compiled.generate(names):
            length += len(part)
            if length > MAX_CHARACTERS:
                raise TemplateError(
                    "chat template prints without end", expected=f"at most {MAX_CHARACTERS}"
                )
            parts.append(part)
    except _Refusal as error:
        refusal = TemplateError(f"the chat template refuses this conversation: {error.message}")
        refusal.refused = True
        raise refusal from error
    except jinja2.exceptions.SecurityError as error:
        raise TemplateError(f"chat template: forbidden in the sandbox: {error}") from error
    except jinja2.TemplateError as error:
        raise TemplateError(f"chat template: {error.message}") from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise TemplateError(f"chat template: {type(error).__name__}: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise TemplateError(f"chat template: {type(error).__name__}") from error
    return "".join(parts)


def _open_end(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not messages or not isinstance(messages[-1].get("content"), str):
        raise TemplateError("nothing to continue: the last message has no text")
    # A template may trim the content; the mark then keeps what stands before it.
    return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + _CUT}]


def _cut_end(text: str) -> str:
    end = text.rfind(_CUT)
    if end < 0:
        raise TemplateError("the template does not print the last message: it cannot go on")
    return text[:end].replace(_CUT, "")


def _line(text: str, number: int) -> str:
    lines = text.splitlines() or [""]
    return lines[min(max(number, 1), len(lines)) - 1].strip()[:80]
