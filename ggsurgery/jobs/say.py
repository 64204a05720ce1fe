"""A model's answer to one question, so that people can see the effect of a cut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from ..chat.render import TemplateError, render
from ..chat.vocabulary import Vocabulary, chat_template
from ..files.fields import FieldError, Fields, read_json, text
from ..files.progress import Progress
from ..ggufio.header import read_header
from ..runtime import worker
from ..runtime.engine import Engine
from .fields import Model, Threads
from .request import Settings, option


class SaySettings(Settings, frozen=True, kw_only=True):
    """A recipe's section `evaluate.say`."""

    prompt: Annotated[str, option("The question.")]
    max_tokens: Annotated[int, option("The longest answer.", ge=1)] = 48


class SayRequest(SaySettings, frozen=True, kw_only=True):
    """Let a model answer a question, the likeliest token each time."""

    file: Model
    threads: Threads = None

    def check(self) -> list[str]:
        """Nothing can be checked before the model runs."""
        return []

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Answer in a child process; returns `question`, `prompt`, `text`, `reason`."""
        return worker.run(say, Path(self.file), self.prompt, self.max_tokens, self.threads)


def prompt_of(path: Path, question: str) -> tuple[str, bool]:
    """A question rendered with the file's own chat template; for a base model, the bare text.

    Returns:
        The prompt, and whether it is a chat prompt (with special tokens to parse).
    """
    header = read_header(path)
    template = chat_template(header)
    if template is None:
        return question, False
    vocabulary = Vocabulary.of(header)
    messages = [{"role": "user", "content": question}]
    try:
        prompt = render(
            template,
            messages,
            bos_token=vocabulary.bos,
            eos_token=vocabulary.eos,
            enable_thinking=False,
        )
    except TemplateError:
        return question, False
    return prompt.removeprefix(vocabulary.bos) if vocabulary.adds_bos else prompt, True


def read_said(path: Path) -> dict[str, Any]:
    """A question and a model's answer, as written by a run.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        found = Fields(read_json(path))
        return {**found.data, **{k: found.get(k, text) for k in ("file", "question", "text")}}
    except FieldError as error:
        raise error.at(file=path) from None


def say(
    path: Path, question: str, max_tokens: int = 48, n_threads: int | None = None
) -> dict[str, Any]:
    """Let a model answer, the likeliest token each time.

    Returns:
        `prompt`, `text`, and `reason`, why it ended: `eog`, `stop` or `length`.
    """
    prompt, chat = prompt_of(path, question)
    n_ctx = max(512, 2 * len(prompt.encode()) + max_tokens)
    with Engine.open(path, n_ctx=n_ctx, n_threads=n_threads) as engine:
        tokens = engine.tokenize(prompt, parse_special=chat)
        answer = engine.generate(tokens, max_tokens=max_tokens)
    return {"question": question, "prompt": prompt, "text": answer.text, "reason": answer.reason}
