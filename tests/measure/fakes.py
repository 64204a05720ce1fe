"""A language model of bytes whose every figure can be worked out by hand.

Its logits depend on the last two tokens through a seeded table, so tests can compute the
same log-probabilities in float64 without the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SPECIAL = ["<bos>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"]
N_VOCAB = 256 + len(SPECIAL)
BOS, EOS = 256, 257

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SWITCHED = CHATML + (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}"
)


@dataclass
class Said:
    text: str
    tokens: tuple[int, ...]
    reason: str


class ByteModel:
    """Stands in for `Engine`: same methods, a table instead of a network."""

    def __init__(
        self,
        seed: int = 0,
        *,
        n_ctx: int = 64,
        scale: float = 2.0,
        template: str | None = None,
        says: Callable[[str], str] | None = None,
        add_bos: bool = False,
        ends: bool = True,
    ):
        rng = np.random.default_rng(seed)
        self.first = rng.normal(0, scale, (N_VOCAB, N_VOCAB)).astype(np.float32)
        self.second = rng.normal(0, scale / 2, (N_VOCAB, N_VOCAB)).astype(np.float32)
        self.n_ctx, self.n_vocab, self.n_layer = n_ctx, N_VOCAB, 3
        self.bos, self.eos, self.add_bos = BOS, EOS, add_bos
        self.eog = frozenset({EOS})
        self.chat_template = template
        self.says, self.ends = says, ends
        self.path = "bytes.gguf"
        self.held: list[int] = []
        self.n_decoded = 0
        self.broken_at: int | None = None  # a layer whose output is NaN

    def tokenize(self, text, *, add_special=True, parse_special=False):
        tokens = []
        while text:
            for i, name in enumerate(SPECIAL):
                if parse_special and text.startswith(name):
                    tokens.append(256 + i)
                    text = text[len(name) :]
                    break
            else:
                tokens += text[0].encode()
                text = text[1:]
        return [BOS, *tokens] if add_special and self.add_bos else tokens

    def piece(self, token, *, special=False):
        if token < 256:
            return bytes([token])
        return SPECIAL[token - 256].encode() if special else b""

    def detokenize(self, tokens, *, special=False):
        return b"".join(self.piece(t, special=special) for t in tokens).decode("utf-8", "replace")

    def reset(self):
        self.held = []

    def decode(self, tokens, *, logits="last"):
        rows = []
        for token in map(int, tokens):
            previous = self.held[-1] if self.held else 0
            self.held.append(token)
            rows.append(self.first[token] + self.second[previous])
        self.n_decoded += len(rows)
        out = np.array(rows, np.float32)
        if self.broken_at is not None:
            out[:] = np.nan
        if logits == "last":
            return out[-1:]
        return out[logits] if isinstance(logits, slice) else out

    def first_nonfinite(self, tokens):
        return None if self.broken_at == 99 else f"l_out-{self.broken_at}"

    def logprobs(self, prefix, continuations):
        found = []
        self.reset()
        last = self.decode(prefix)
        for tokens in continuations:
            self.held = list(prefix)
            rows = np.concatenate([last, self.decode(tokens, logits="all")])[:-1]
            log_p = exact_log_softmax(rows)
            found.append(log_p[np.arange(len(tokens)), list(tokens)])
        return found

    def generate(
        self, tokens: Sequence[int], *, max_tokens, stop=(), temperature=0.0, seed=0
    ) -> Said:
        assert self.says is not None
        text = self.says(self.detokenize(tokens, special=True))
        said = self.tokenize(text, parse_special=True)
        if len(said) > max_tokens:
            said, reason = said[:max_tokens], "length"
        else:
            reason = "eog" if self.ends else "length"
        text = self.detokenize(said)
        for mark in stop:
            if mark in text:
                text, reason = text[: text.index(mark)], "stop"
        return Said(text, tuple(said), reason)


def exact_log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 log softmax over the last axis."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
