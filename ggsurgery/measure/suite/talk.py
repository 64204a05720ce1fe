"""Ask a model something: through its chat template if it has one, else as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...chat.render import render
from ...runtime.protocols import LanguageModel

#: How templates mark the thinking that comes before an answer.
THINK_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))

#: Template variables that switch thinking on and off.
SWITCHES = ("enable_thinking", "thinking")


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer to one prompt.

    Args:
        answer: the text outside the thinking.
        thought: the text inside it, None if there was no thinking block.
        opened, closed: whether a thinking block began and ended.
        reason: `eog`, `stop` or `length`.
        n_tokens: tokens generated.
    """

    answer: str
    thought: str | None
    opened: bool
    closed: bool
    reason: str
    n_tokens: int


def split_thinking(prompt: str, output: str) -> tuple[str, str | None, bool, bool]:
    """(answer, thought, opened, closed); the prompt may itself have opened the block.

    Example:
        >>> split_thinking("", "<think>Hm.</think>Four.")
        ('Four.', 'Hm.', True, True)
    """
    for begin, end in THINK_TAGS:
        opened_by_prompt = prompt.rfind(begin) > prompt.rfind(end)
        at = 0 if opened_by_prompt else output.find(begin)
        if at < 0:
            continue
        before = output[:at]
        inside = output[at:] if opened_by_prompt else output[at + len(begin) :]
        thought, closing, after = inside.partition(end)
        answer = before + after if closing else before
        return answer.strip(), thought.strip(), True, bool(closing)
    return output.strip(), None, False, False


def has_switch(engine: LanguageModel) -> bool:
    """Whether the chat template renders differently with thinking on and off."""
    template = engine.chat_template
    if not template or not any(name in template for name in SWITCHES):
        return False
    messages = [{"role": "user", "content": "Hello"}]
    return chat_prompt(engine, messages, thinking=True) != chat_prompt(
        engine, messages, thinking=False
    )


def chat_prompt(
    engine: LanguageModel,
    messages: Sequence[dict[str, Any]],
    *,
    thinking: bool | None = None,
    generation: bool = True,
) -> str:
    """The conversation as the template prints it, with `generation` the assistant's turn opened.

    Raises:
        TemplateError: the template does not compile or refuses the conversation.
    """
    assert engine.chat_template is not None
    extra: dict[str, Any] = {} if thinking is None else {"thinking": thinking}
    return render(
        engine.chat_template,
        messages,
        enable_thinking=thinking,
        add_generation_prompt=generation,
        bos_token=_text(engine, engine.bos),
        eos_token=_text(engine, engine.eos),
        **extra,
    )


def chat_tokens(engine: LanguageModel, prompt: str) -> list[int]:
    """Tokens of a rendered prompt: special tokens read, BOS in front exactly once."""
    bos = engine.bos if engine.add_bos else None
    tokens = engine.tokenize(prompt, add_special=False, parse_special=True)
    if bos is not None and tokens[:1] != [bos]:
        tokens = [bos, *tokens]
    return tokens


@dataclass(frozen=True, slots=True)
class Talker:
    """Asks one model with fixed budgets and greedy (or seeded) generation."""

    engine: LanguageModel
    thinking_tokens: int
    temperature: float = 0.0
    seed: int = 0

    @property
    def chats(self) -> bool:
        """Whether there is a chat template to talk through."""
        return bool(self.engine.chat_template)

    def ask(self, text: str, budget: int, *, thinking: bool | None = None) -> Reply:
        """Ask through the chat template.

        With thinking off or unset the budget counts for the answer; a model that is still
        inside its thinking when the budget is used up goes on until `thinking_tokens`.
        """
        prompt = chat_prompt(self.engine, [{"role": "user", "content": text}], thinking=thinking)
        tokens = chat_tokens(self.engine, prompt)
        budget = self.thinking_tokens if thinking else budget
        reply = self._generate(prompt, tokens, budget)
        if reply.reason == "length" and reply.opened and budget < self.thinking_tokens:
            reply = self._generate(prompt, tokens, self.thinking_tokens)
        return reply

    def complete(self, text: str, budget: int, *, stop: Sequence[str] = ()) -> Reply:
        """Continue a plain text."""
        return self._generate("", self.engine.tokenize(text), budget, stop)

    def _generate(
        self, prompt: str, tokens: list[int], budget: int, stop: Sequence[str] = ()
    ) -> Reply:
        room = max(1, min(budget, self.engine.n_ctx - len(tokens) - 1))
        output = self.engine.generate(
            tokens, max_tokens=room, stop=stop, temperature=self.temperature, seed=self.seed
        )
        # marks of thinking may be special tokens, which the plain text leaves out
        text = output.text if stop else self.engine.detokenize(output.tokens, special=True)
        answer, thought, opened, closed = split_thinking(prompt, text)
        return Reply(answer, thought, opened, closed, output.reason, len(output.tokens))


def _text(engine: LanguageModel, token: int | None) -> str:
    return "" if token is None else engine.detokenize([token], special=True)
