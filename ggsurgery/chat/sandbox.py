"""The child process in which chat templates run; it serves the requests of `render`.

jinja2's immutable sandbox allows no attribute that starts with an underscore and no change to
the conversation. It does not bound what a template computes, so this process has a limit on
its memory and on the time of each answer, and `render` kills it after a deadline.

Extensions of plain Jinja for templates (transformers, "Chat templates"):

    raise_exception(text)        refuse the conversation
    strftime_now(format)         today, for system prompts with a date
    x | tojson(indent=…)         JSON as json.dumps writes it, not escaped for HTML
    {% break %} {% continue %}   loop controls
    {% generation %} … {% endgeneration %}   marks the assistant's text (printed as it is)
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from ..runtime.child import limit_resource, receive, send, streams
from . import limits


class Failed(Exception):
    """An answer that is an error: `kind` is `error` or `refused`."""

    def __init__(self, kind: str, problem: str, expected: str = "", found: str = "") -> None:
        super().__init__(problem)
        self.kind = kind
        shown = problem if len(problem) <= limits.MESSAGE else problem[: limits.MESSAGE] + "…"
        self.facts = [kind, shown, expected, found]


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
    """The sandbox, without operators that templates do not need and that can exhaust memory at
    once."""

    intercepted_binops = frozenset({"**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise jinja2.exceptions.SecurityError("a chat template has no use for **")
        if operator == "%" and isinstance(left, str):  # "%99999999999d" % 1
            raise jinja2.exceptions.SecurityError("use ~ or |string instead of % formatting")
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
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment() -> jinja2.Environment:
    """The sandboxed Jinja environment that chat templates are written for."""
    env = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _refuse
    return env


@lru_cache(maxsize=64)
def _compile(template: str) -> jinja2.Template:
    return environment().from_string(template)


def compiled(template: str) -> jinja2.Template:
    """A compiled template.

    Raises:
        Failed: a syntax error, with its line.
    """
    try:
        return _compile(template)
    except jinja2.TemplateSyntaxError as error:
        raise Failed(
            "error",
            f"chat template, line {error.lineno}: {error.message}",
            found=_line(template, error.lineno),
        ) from error
    except (SyntaxError, RecursionError) as error:  # Jinja's generated code nests too deeply
        raise Failed("error", f"chat template nests too deep: {error}") from error


def rendered(template: jinja2.Template, names: dict[str, Any], limit: int) -> str:
    """The template's output, at most `limit` characters.

    Raises:
        Failed: it refuses the conversation, fails, or prints more.
    """
    parts, length = [], 0
    try:
        for part in template.generate(names):
            length += len(part)
            if length > limit:
                raise Failed(
                    "error", "chat template prints without end", f"at most {limit:,} characters"
                )
            parts.append(part)
    except _Refusal as error:
        problem = f"the chat template refuses this conversation: {error.message}"
        raise Failed("refused", problem) from error
    except jinja2.exceptions.SecurityError as error:
        raise Failed("error", f"chat template: forbidden in the sandbox: {error}") from error
    except jinja2.TemplateError as error:
        raise Failed("error", f"chat template: {error.message}") from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise Failed("error", f"chat template: {type(error).__name__}: {error}") from error
    except RecursionError as error:
        raise Failed("error", "chat template: RecursionError") from error
    return "".join(parts)


def answer(template: str, names: bytes | None, now: datetime, limit: int) -> bytes:
    """`T` and what was printed as UTF-8, or `E` and kind, problem, expected, found as JSON.

    Args:
        names: the template's variables, pickled; None only compiles it.
    """
    try:
        ready = compiled(template)
        if names is None:
            return b"T"
        text = rendered(ready, pickle.loads(names) | {"strftime_now": now.strftime}, limit)
        return b"T" + text.encode("utf-8", "surrogatepass")
    except Failed as error:
        return b"E" + json.dumps(error.facts).encode()
    except MemoryError:
        mib = limits.MEMORY >> 20
        problem = f"the chat template needs more than {mib} MiB of memory"
        return b"E" + json.dumps(["stopped", problem, "", ""]).encode()


def serve() -> None:
    """The main of the child: answers until its parent closes the pipe."""
    questions, answers = streams()
    limit_resource("RLIMIT_AS", limits.MEMORY)
    send(answers, b"ready")
    while True:
        try:
            request = pickle.loads(receive(questions))
        except EOFError:
            os._exit(0)
        *question, seconds = request
        with _ended_after(seconds + 1):  # the kernel ends it if the parent is gone
            reply = answer(*question)
        send(answers, reply)


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End the process if the block takes longer, whatever it is computing (not on Windows)."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _line(text: str, number: int) -> str:
    lines = text.splitlines() or [""]
    return lines[min(max(number, 1), len(lines)) - 1].strip()[:80]
