"""Byte-level BPE of 1024 entries with Qwen's pre-tokenizer, and the training stream."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 1024
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = ("<think>", "</think>")
#: The pattern that llama.cpp applies for `tokenizer.ggml.pre = qwen2`.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SYSTEM = "You are a helpful assistant."


def train_tokenizer(text: str) -> Tokenizer:
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
        special_tokens=[*CONTROL, *USER_DEFINED],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split("\n\n"), trainer)
    return tokenizer


def chat(item: dict[str, str], kind: int) -> str:
    """One exchange in ChatML; half of them think, as Qwen3's template has it."""
    thought = f"<think>\n{item['think']}\n</think>\n\n" if kind % 2 else "<think>\n\n</think>\n\n"
    system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if kind % 4 > 1 else ""
    return (
        f"{system}<|im_start|>user\n{item['q']}<|im_end|>\n"
        f"<|im_start|>assistant\n{thought}{item['a']}<|im_end|>\n<|endoftext|>"
    )


def stream(tokenizer: Tokenizer, folder: Path, seed: int) -> np.ndarray:
    """All training tokens: the manual in shuffled pieces with the exchanges strewn in."""
    rng = random.Random(seed)
    text = (folder / "train.txt").read_text(encoding="utf-8")
    paragraphs = text.split("\n\n")
    pieces, size = [], 24
    for start in range(0, len(paragraphs), size):
        pieces.append("\n\n".join(paragraphs[start : start + size]) + "\n\n")
    lines = (folder / "chat.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        pieces.append(chat(json.loads(line), number))
    rng.shuffle(pieces)
    ids = [i for e in tokenizer.encode_batch(pieces) for i in e.ids]
    return np.array(ids, dtype=np.int32)
