"""Byte-level BPE of 8192 entries with Qwen's pre-tokenizer, and the training windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from corpus import DOMAINS
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 8192
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 512
#: The pattern that llama.cpp applies for `tokenizer.ggml.pre = qwen2`.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: Characters a domain that the vocabulary is made from, so that no domain dominates it.
SHARE = 3_000_000
_PIECE = 20_000


def pieces(text: str, limit: int | None = None) -> list[str]:
    return [text[i : i + _PIECE] for i in range(0, len(text[:limit]), _PIECE)]


def train_tokenizer(data: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        piece
        for domain in DOMAINS
        for piece in pieces((data / f"{domain}.train.txt").read_text(encoding="utf-8"), SHARE)
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def windows(tokenizer: Tokenizer, text: str, limit: int | None = None) -> np.ndarray:
    """Consecutive windows of CONTEXT + 1 tokens, uint16 (n, CONTEXT + 1)."""
    ids = [i for e in tokenizer.encode_batch(pieces(text, limit)) for i in e.ids]
    n = len(ids) // (CONTEXT + 1)
    return np.array(ids[: n * (CONTEXT + 1)], dtype=np.uint16).reshape(n, CONTEXT + 1)


def training_windows(tokenizer: Tokenizer, data: Path, seed: int) -> np.ndarray:
    """Windows of all domains, shuffled."""
    rows = np.concatenate(
        [
            windows(tokenizer, (data / f"{domain}.train.txt").read_text(encoding="utf-8"))
            for domain in DOMAINS
        ]
    )
    return rows[np.random.default_rng(seed).permutation(len(rows))]
