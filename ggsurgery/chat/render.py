"""Render a chat template the way llama.cpp and transformers do, in a process of its own.

A chat template is an untrusted Jinja program that is part of a downloaded file. Every template is
compiled and rendered in a child process (`sandbox`) with a deadline and limits on memory and
output. The child starts with the first template, which takes 0.1 s, and serves all later ones; a
template that made it necessary to kill the child is refused from then on.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..errors import FormatError, GGSurgeryError
from ..runtime.child import Child, receive, send
from . import limits

#: Seconds that the child may take to start on a busy machine.
START_SECONDS = 60.0

Message = Mapping[str, Any]

#: Marks the end of the last message while rendering; everything after it is cut off.
_CUT = "\ue000ggsurgery-cut\ue000"
_HINT = "`ggsurgery template set --family NAME IN OUT` writes another one."


class TemplateError(FormatError):
    """A chat template that does not compile, does not run, or refuses the conversation.

    `refused` is true if the template called `raise_exception`, and false for a fault of the
    template.
    """

    code = "template"

    refused = False


class _Renderer:
    """Owns the child process and remembers the templates for which it was killed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: Child | None = None
        self.owner = 0
        self.stopped: dict[str, str] = {}

    def ask(self, template: str, names: dict[str, Any] | None, now: datetime) -> str:
        """The child's output; empty if it only compiles (no `names`).

        Raises:
            TemplateError: what is wrong with the template.
        """
        if len(template) > limits.TEMPLATE:
            raise TemplateError(
                "the chat template is too long",
                expected=f"at most {limits.TEMPLATE:,} characters",
                found=f"{len(template):,}",
                hint=_HINT,
            )
        try:
            given = None if names is None else pickle.dumps(names)
        except (TypeError, AttributeError, RecursionError, pickle.PicklingError) as error:
            raise TemplateError(f"the conversation is not plain data: {error}") from error
        most = min(limits.PROMPT, limits.OVERHEAD + limits.REPEATS * len(given or b""))
        with self.lock:
            if template not in self.stopped:
                answer = self._answer((template, given, now, most, limits.SECONDS), most)
                if answer.startswith(b"T"):
                    return answer[1:].decode("utf-8", "surrogatepass")
                kind, problem, expected, found = json.loads(answer[1:])
                if kind != "stopped":
                    failure = TemplateError(problem, expected=expected or None, found=found or None)
                    failure.refused = kind == "refused"
                    raise failure
                self.close(kill=True)
                self.stopped[template] = problem
            raise TemplateError(self.stopped[template], hint=_HINT)

    def _answer(self, request: tuple[Any, ...], most: int) -> bytes:
        """The child's answer, or the reason why it was killed, in the same form."""
        child = self._running()
        healthy = False
        try:
            with child.deadline(limits.SECONDS):
                send(child.questions, pickle.dumps(request))
                answer = receive(child.answers, 4 * most + 2**16)
            healthy = not child.late
            return answer
        except (EOFError, OSError):
            problem = "the chat template crashes the process that renders it"
            if child.late:
                problem = f"the chat template runs for more than {limits.SECONDS} s"
            return b"E" + json.dumps(["stopped", problem, "", ""]).encode()
        finally:  # Ctrl-C, too
            if not healthy:
                self.close(kill=True)

    def _running(self) -> Child:
        """The child, started if necessary; a child of the process that forked this one is not
        used."""
        if self.child is not None and self.owner == os.getpid():
            return self.child
        child = Child("ggsurgery.chat.sandbox", "serve")
        self.child, self.owner = child, os.getpid()
        try:
            with child.deadline(START_SECONDS):
                receive(child.answers, 64)
        except BaseException as error:
            self.close(kill=True)
            if not isinstance(error, EOFError):
                raise
            raise GGSurgeryError(
                "the process that renders chat templates does not start",
                hint="`python -c 'import ggsurgery.chat.sandbox'` shows why.",
            ) from None
        return child

    def close(self, *, kill: bool = False) -> None:
        """End the child."""
        child, self.child = self.child, None
        if child is not None and self.owner == os.getpid():
            child.close(kill=kill)


_RENDERER = _Renderer()
atexit.register(_RENDERER.close)


def compile_template(template: str) -> None:
    """Check that a template compiles.

    Raises:
        TemplateError: a syntax error, with its line.
    """
    _RENDERER.ask(template, None, datetime.min)


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
        now: the time that `strftime_now` returns; the current time if None.
        variables: passed to the template under their names.

    Raises:
        TemplateError: syntax, an unknown name used, something the sandbox forbids, a
            conversation that the template refuses (`refused` is then true).

    Example:
        >>> render("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
        ...        [{"role": "user", "content": "Hi"}])
        '<user>Hi'
    """
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
        **variables,
    }
    if enable_thinking is not None:
        names["enable_thinking"] = enable_thinking
    text = _RENDERER.ask(template, names, now or datetime.now())
    if continue_final_message:
        text = _cut_end(text)
    return text


def _open_end(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not messages or not isinstance(messages[-1].get("content"), str):
        raise TemplateError("nothing to continue: the last message has no text")
    # A template may trim the content; the mark protects the white space before it.
    return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + _CUT}]


def _cut_end(text: str) -> str:
    end = text.rfind(_CUT)
    if end < 0:
        raise TemplateError("the template does not print the last message: it cannot go on")
    return text[:end].replace(_CUT, "")
