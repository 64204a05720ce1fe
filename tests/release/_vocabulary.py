"""llama.cpp's tokenizer on a vocabulary without weights."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: object) -> None:
    """llama.cpp's remarks while loading are no part of a test's output."""


class Tokenizer:
    """A vocabulary file and how llama.cpp reads a prompt with it."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p())
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self._model, path
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        bos = llama_cpp.llama_vocab_bos(self._vocab)
        text = llama_cpp.llama_vocab_get_text(self._vocab, bos) if bos >= 0 else None
        self.bos = text.decode() if text and llama_cpp.llama_vocab_get_add_bos(self._vocab) else ""

    def prompt(self, text: str) -> list[int]:
        """Token ids of a prompt; the beginning-of-text token stands there once."""
        data = text.removeprefix(self.bos).encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        n = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, len(ids), True, True)
        assert n >= 0
        return list(ids[:n])
