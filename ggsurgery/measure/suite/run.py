"""Run the surgery suite on one model: six parts, deterministic, each with its transcript."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import EngineError
from ...files.progress import Progress
from ...runtime.protocols import LanguageModel
from ...runtime.scoring import log_softmax_at
from ..metrics.choices import score_choices
from ..questions import prompts
from ..windows import Windows, window_logits
from . import data
from .answers import accepted
from .repetition import freedom_from_loops
from .result import Part, SurgeryScore
from .talk import THINK_TAGS, Reply, Talker, has_switch

#: Context that the suite needs: the thinking budget and room for the prompt.
N_CTX = 1536

#: Windows of the prose: short, so that a small text gives several.
PROSE_CTX = 256

#: How many of the questions are asked in both positions of the thinking switch, and how many
#: answers have to end by themselves.
N_THINKING = 3
N_STOP = 10

_ASKING = "{} Answer in a few words."
_CLOZE_TOKENS = 24


def run_suite(
    engine: LanguageModel,
    *,
    length: data.Length = "default",
    weights: data.Weights | None = None,
    limit: int | None = None,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> SurgeryScore:
    """Score a model from 0 to 100.

    Args:
        length: the default set of questions or the long one.
        limit: at most so many questions, openings and windows of each part (for trials; the
            provenance says so).

    Raises:
        EngineError: broken logits, or a context smaller than a prompt.
        TemplateError: a chat template that does not render.
    """
    rules = weights or data.load_weights()
    suite = _suite(engine, length, rules, limit, progress)
    parts = tuple(suite.part(name) for name in data.PARTS)
    if not any(part.applies and part.weight > 0 for part in parts):
        raise EngineError(
            "no part of the suite that has a weight applies to this model",
            file=getattr(engine, "path", None),
            expected="a weight for one of "
            + ", ".join(part.name for part in parts if part.applies),
            found=rules.source,
            hint="Give such a part a weight in the weights file.",
        )
    where = {
        **(provenance or {}),
        "suite": "surgery",
        "length": length,
        "limit": limit,
        "weights": rules.source,
        "mode": "chat template" if suite.talker.chats else "plain text",
    }
    return SurgeryScore(parts, {k: v for k, v in where.items() if v is not None})


def run_part(
    engine: LanguageModel, name: str, *, limit: int | None = None, progress: Progress | None = None
) -> Part:
    """One part of the suite; see `run_suite`."""
    return _suite(engine, "default", data.load_weights(), limit, progress).part(name)


def _suite(
    engine: LanguageModel,
    length: data.Length,
    rules: data.Weights,
    limit: int | None,
    progress: Progress | None,
) -> _Suite:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, n_steps(length, limit))

    talker = Talker(engine, rules.thinking_tokens, rules.temperature, rules.seed)
    facts = data.load_facts(length)[:limit]
    return _Suite(engine, talker, rules, facts, limit, step, talker.chats and has_switch(engine))


def n_steps(length: data.Length = "default", limit: int | None = None) -> int:
    """The maximum number of `progress` calls, for a progress bar."""
    sizes = (
        len(data.load_facts(length)),
        len(data.load_coherence()),
        1,
        len(data.load_openings()),
        2 * N_THINKING,
        N_STOP,
    )
    return sum(n if limit is None else min(n, limit) for n in sizes)


@dataclass(frozen=True, slots=True)
class _Suite:
    """One run: the model, the rules, and a method a part."""

    engine: LanguageModel
    talker: Talker
    rules: data.Weights
    facts: Sequence[data.Fact]
    limit: int | None
    step: Callable[[], None]
    switch: bool

    def part(self, name: str) -> Part:
        """A part by its name in `data.PARTS`."""
        parts = {
            "facts": self.facts_part,
            "coherence": self.coherence,
            "perplexity": self.perplexity,
            "repetition": self.repetition,
            "thinking": self.thinking,
            "stop": self.stop,
        }
        return parts[name]()

    def _part(self, name: str, **fields: Any) -> Part:
        return Part(name, self.rules.weights.get(name, 0.0), **fields)

    def _ask(self, fact: data.Fact, budget: int, thinking: bool | None = None) -> Reply:
        if thinking is None and self.switch:
            thinking = False  # the short way, where the template offers it
        return self.talker.ask(_ASKING.format(fact.question), budget, thinking=thinking)

    def facts_part(self) -> Part:
        """Greedy answers: through the chat template, or sentences to complete."""
        items, transcript = [], []
        for fact in self.facts:
            if self.talker.chats:
                asked = fact.question
                reply = self._ask(fact, self.rules.answer_tokens)
            else:
                asked = fact.cloze
                reply = self.talker.complete(fact.cloze, _CLOZE_TOKENS, stop=("\n",))
            right = accepted(reply.answer, fact.answers)
            items.append(float(right))
            transcript.append(
                {
                    "id": fact.id,
                    "asked": asked,
                    "said": reply.answer,
                    "right": right,
                    "accepted": list(fact.answers),
                }
            )
            self.step()
        return self._part(
            "facts",
            items=tuple(items),
            ids=tuple(f.id for f in self.facts),
            transcript=tuple(transcript),
        )

    def coherence(self) -> Part:
        """acc_norm of sensible against senseless continuations."""
        asked = prompts(data.load_coherence()[: self.limit], "plain")
        answered = score_choices(self.engine, asked, progress=lambda *_: self.step())
        right = [a.picks()["acc_norm"] == a.prompted.question.answer for a in answered]
        return self._part(
            "coherence",
            items=tuple(map(float, right)),
            ids=tuple(a.prompted.question.id for a in answered),
        )

    def perplexity(self) -> Part:
        """Bits per byte of the prose, one item a window."""
        tokens = self.engine.tokenize(data.load_prose(), add_special=False)
        bos = self.engine.bos if self.engine.add_bos else None
        found = []
        for window in Windows.of_tokens(tokens, PROSE_CTX, self.limit, bos):
            nats = -float(log_softmax_at(window_logits(self.engine, window), window.targets).sum())
            n_bytes = len(self.engine.detokenize(window.targets.tolist(), special=True).encode())
            found.append(nats / np.log(2) / n_bytes)
        self.step()
        return self._part(
            "perplexity",
            items=tuple(found),
            bad=self.rules.bits_bad,
            good=self.rules.bits_good,
            ids=tuple(f"window-{i}" for i in range(len(found))),
        )

    def repetition(self) -> Part:
        """Open answers, measured for loops."""
        items, transcript, ids = [], [], []
        for opening in data.load_openings()[: self.limit]:
            if self.talker.chats:
                asked = opening.instruction
                switched = False if self.switch else None
                reply = self.talker.ask(asked, self.rules.open_tokens, thinking=switched)
            else:
                asked = opening.opening
                reply = self.talker.complete(asked, self.rules.open_tokens)
            value = freedom_from_loops(
                reply.answer,
                ngram=self.rules.ngram,
                distinct_bad=self.rules.distinct_bad,
                ratio_good=self.rules.ratio_good,
                ratio_bad=self.rules.ratio_bad,
            )
            items.append(value)
            ids.append(opening.id)
            transcript.append({"id": opening.id, "asked": asked, "said": reply.answer})
            self.step()
        return self._part(
            "repetition", items=tuple(items), ids=tuple(ids), transcript=tuple(transcript)
        )

    def thinking(self) -> Part:
        """On: a block opens, closes, and an answer follows. Off: an answer and no thoughts."""
        if not self.talker.chats:
            return self._part("thinking", items=(), note="no chat template")
        template = self.engine.chat_template or ""
        if not self.switch and not any(begin in template for begin, _ in THINK_TAGS):
            return self._part("thinking", items=(), note="the template has no thinking switch")
        positions = (True, False) if self.switch else (None,)
        items, transcript, ids = [], [], []
        for fact in self.facts[:N_THINKING]:
            for position in positions:
                budget = self.rules.thinking_tokens
                reply = self.talker.ask(fact.question, budget, thinking=position)
                right = _thinks(reply) if position in (True, None) else _answers_only(reply)
                items.append(float(right))
                ids.append(f"{fact.id}-{'off' if position is False else 'on'}")
                transcript.append(
                    {
                        "id": ids[-1],
                        "asked": fact.question,
                        "said": reply.answer,
                        "thought": reply.thought,
                        "opened": reply.opened,
                        "closed": reply.closed,
                        "tokens": reply.n_tokens,
                        "right": right,
                    }
                )
                self.step()
        return self._part(
            "thinking", items=tuple(items), ids=tuple(ids), transcript=tuple(transcript)
        )

    def stop(self) -> Part:
        """Answers that end with an end-of-turn token within the budget."""
        if not self.talker.chats:
            return self._part("stop", items=(), note="no chat template, so no end of a turn")
        items, transcript = [], []
        for fact in self.facts[:N_STOP]:
            reply = self._ask(fact, self.rules.stop_tokens)
            items.append(float(reply.reason == "eog"))
            transcript.append({"id": fact.id, "tokens": reply.n_tokens, "reason": reply.reason})
            self.step()
        return self._part(
            "stop",
            items=tuple(items),
            ids=tuple(f.id for f in self.facts[:N_STOP]),
            transcript=tuple(transcript),
        )


def _thinks(reply: Reply) -> bool:
    return reply.opened and reply.closed and bool(reply.thought) and bool(reply.answer)


def _answers_only(reply: Reply) -> bool:
    # a template may print an empty, closed block itself, which does not count as thinking
    return not reply.thought and bool(reply.answer) and (reply.closed or not reply.opened)
