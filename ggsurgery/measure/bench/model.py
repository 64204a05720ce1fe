"""A GGUF model as lm-evaluation-harness sees one: three requests over `runtime.engine`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.progress import Progress
from ...runtime.engine import Engine
from ...runtime.nonfinite import not_finite
from ..suite.talk import chat_prompt, chat_tokens

Request = tuple[tuple[str, str], list[int], list[int]]

MAX_GENERATED = 256  # tokens, where a task sets no budget (the harness's own default)


def harness_model(
    engine: Engine, *, chat: bool = False, progress: Progress | None = None
) -> GGUFModel:
    """The model as an `lm_eval.api.model.TemplateLM`, which the harness insists on.

    The harness is an extra, so its base class is joined in here and not at import.
    """
    from lm_eval.api.model import TemplateLM

    joined: type[GGUFModel] = type("GGUFModel", (GGUFModel, TemplateLM), {})
    return joined(engine, chat=chat, progress=progress)


class GGUFModel:
    """The methods of `TemplateLM` over an open engine.

    Args:
        engine: its context limits the prompts; longer ones lose their beginning, as in the
        harness's own models, and are counted in `n_truncated`.
        chat: prompts are rendered with the file's chat template.
        progress: called with (requests done, total requests) for each kind of request.
    """

    def __init__(self, engine: Engine, *, chat: bool = False, progress: Progress | None = None):
        super().__init__()
        self.engine = engine
        self.chat = chat
        self.progress = progress
        self.n_truncated = 0

    @property
    def eot_token_id(self) -> int:
        token = self.engine.eos if self.engine.eos is not None else self.engine.bos
        return 0 if token is None else token

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self.engine.bos is None else self.engine.bos

    @property
    def tokenizer_name(self) -> str:
        return str(self.engine.path)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The file's own template, for the record that the harness keeps."""
        return self.engine.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the file's template prints it."""
        return chat_prompt(self.engine, chat_history, generation=add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens, with exactly one BOS in front if the model needs it."""
        if add_special_tokens is False:
            return self.engine.tokenize(string, add_special=False, parse_special=self.chat)
        if self.chat:
            return chat_tokens(self.engine, string)
        return self.engine.tokenize(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], **_: Any
    ) -> list[tuple[float, bool]]:
        """(summed log-probability, whether greedy decoding would generate it) of each.

        Neighbours with one context (the choices of a question) share its KV cache.
        """
        out: list[tuple[float, bool]] = []
        for context, members in groupby(requests, key=lambda r: tuple(r[1])):
            group = [list(r[2]) for r in members]
            longest = max(map(len, group))
            kept = list(context)[-max(1, self.engine.n_ctx - longest) :]
            self.n_truncated += len(kept) < len(context)
            for found, continuation in zip(self.engine.score(kept, group), group, strict=True):
                out.append((self._sum(found.logprobs, kept, continuation), found.greedy))
            self._tell(len(out), len(requests))
        return out

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows of the context's length."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        out = []
        for number, request in enumerate(requests, 1):
            (text,) = request.args
            tokens = self.engine.tokenize(text, add_special=False)
            windows = get_rolling_token_windows(
                tokens, self.prefix_token_id, self.engine.n_ctx - 1, 1
            )
            total = 0.0
            for context, continuation in map(make_disjoint_window, windows):
                (found,) = self.engine.logprobs(context, [continuation])
                total += self._sum(found, context, continuation)
            out.append(total)
            self._tell(number, len(requests))
        return out

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Continue each context until one of its stop strings, or an end-of-turn token."""
        out = []
        for number, request in enumerate(requests, 1):
            context, wanted = request.args
            settings = dict(wanted)
            until = settings.get("until") or []
            stop = [until] if isinstance(until, str) else list(until)
            budget = min(int(settings.get("max_gen_toks") or MAX_GENERATED), self.engine.n_ctx // 2)
            sampled = bool(settings.get("do_sample")) and float(settings.get("temperature") or 0)
            tokens = self.tok_encode(context)
            kept = tokens[-(self.engine.n_ctx - budget) :]
            self.n_truncated += len(kept) < len(tokens)
            generated = self.engine.generate(
                kept,
                max_tokens=budget,
                stop=stop,
                temperature=float(settings.get("temperature") or 0) if sampled else 0.0,
            )
            out.append(generated.text)
            self._tell(number, len(requests))
        return out

    def _sum(
        self, logprobs: NDArray[np.float64], context: list[int], continuation: list[int]
    ) -> float:
        # the harness would score NaN as a wrong answer, silently
        total = float(logprobs.sum())
        if not np.isfinite(total):
            raise not_finite(self.engine, [*context, *continuation], "a log-probability")
        return total

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)
