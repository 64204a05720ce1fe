"""One prompt to one model, answered as it is generated, with the time that it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import EngineError
from ...runtime.engine import Engine
from .talk import chat_prompt, chat_tokens, has_switch, split_thinking


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and how it is answered.

    Args:
        thinking: the template's switch; None leaves it as the template has it.
        max_tokens: of the answer, the thinking included.
        ctx: tokens that the context holds, prompt and answer together.
        temperature: 0 takes the likeliest token each time.
    """

    prompt: str
    system: str | None = None
    thinking: bool | None = None
    max_tokens: int = 512
    ctx: int = 4096
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The output of one model.

    Args:
        text: all of it, with the marks of thinking.
        answer: the text outside the thinking; thought: the text inside it, if any.
        reason: why generation ended: `eog` (the model ended it) or `length`.
        chat: whether the prompt went through a chat template.
        prompt_seconds: until the first token; seconds: from the first token to the last.
    """

    file: Path
    text: str
    answer: str
    thought: str | None
    reason: str
    chat: bool
    n_prompt: int
    n_generated: int
    prompt_seconds: float
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def speed(self) -> float | None:
        """Tokens a second behind the first; None of fewer than two."""
        return (self.n_generated - 1) / self.seconds if self.n_generated > 1 else None


def ask_file(
    path: Path,
    question: Question,
    n_threads: int | None = None,
    progress: Callable[[str], object] | None = None,
) -> Answer:
    """Answer a question with a file.

    Made to be run by `runtime.worker.run`.

    Args:
        progress: called with the text so far.

    Raises:
        EngineError: the file does not load, or the prompt leaves no room for an answer.
        TemplateError: the chat template refuses the conversation.
    """
    with Engine.open(path, n_ctx=question.ctx, n_threads=n_threads) as engine:
        chat, warnings = bool(engine.chat_template), []
        if chat:
            prompt = chat_prompt(engine, _messages(question), thinking=question.thinking)
            tokens = chat_tokens(engine, prompt)
            if question.thinking is not None and not has_switch(engine):
                warnings.append("the chat template has no switch for thinking")
        else:
            prompt = "\n\n".join(filter(None, (question.system, question.prompt)))
            tokens = engine.tokenize(prompt)
            warnings.append("the file has no chat template, so the model continues the text")
        if not tokens or len(tokens) >= engine.n_ctx:
            raise EngineError(
                "the prompt does not fit the context",
                file=path,
                expected=f"1 to {engine.n_ctx - 1} tokens",
                found=len(tokens),
                hint="Ask for a larger context (`ctx`) or shorten the prompt.",
            )
        times: list[float] = []

        def each(so_far: list[int]) -> None:
            times.append(time.perf_counter())
            if progress is not None:  # the last character may still lack bytes
                progress(engine.detokenize(so_far, special=True).rstrip("\ufffd"))

        began = time.perf_counter()
        generated = engine.generate(
            tokens,
            max_tokens=question.max_tokens,
            temperature=question.temperature,
            seed=question.seed,
            each=each,
        )
        first = times[0] if times else time.perf_counter()
        last = times[-1] if times else first
        text = engine.detokenize(generated.tokens, special=True)
        answer, thought, _, _ = split_thinking(prompt, text)
        return Answer(
            path,
            text,
            answer,
            thought,
            generated.reason,
            chat,
            len(tokens),
            len(generated.tokens),
            first - began,
            last - first,
            tuple(warnings),
        )


def _messages(question: Question) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": question.prompt}]
    if question.system is not None:
        turns.insert(0, {"role": "system", "content": question.system})
    return turns
