"""Text to tokens and back, by the model's own vocabulary in llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError


class Vocabulary:
    """The vocabulary of a loaded model.

    Attributes:
        n_vocab: number of tokens.
        add_bos: whether the model needs BOS before a text.
        bos, eos: token ids, None where the vocabulary has none.
    """

    def __init__(self, llama: Any, model: Any, path: Path) -> None:
        self._llama = llama
        self._model = model
        self._vocab = llama.llama_model_get_vocab(model)
        self._file = path
        self.n_vocab: int = llama.llama_vocab_n_tokens(self._vocab)
        self.has_text: bool = llama.llama_vocab_type(self._vocab) != 0  # LLAMA_VOCAB_TYPE_NONE
        self.add_bos: bool = self.has_text and llama.llama_vocab_get_add_bos(self._vocab)
        self.add_eos: bool = self.has_text and llama.llama_vocab_get_add_eos(self._vocab)
        self.bos = self._token(llama.llama_vocab_bos(self._vocab))
        self.eos = self._token(llama.llama_vocab_eos(self._vocab))

    @staticmethod
    def _token(found: int) -> int | None:
        return None if found < 0 else int(found)

    @cached_property
    def eog(self) -> frozenset[int]:
        """The tokens that end a generation (end of text, end of turn …)."""
        if not self.has_text:
            return frozenset()
        is_end = self._llama.llama_vocab_is_eog
        return frozenset(t for t in range(self.n_vocab) if is_end(self._vocab, t))

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja chat template of the file, None if it has none."""
        found = self._llama.llama_model_chat_template(self._model, None)
        return None if found is None else found.decode("utf-8", "replace")

    def _need_text(self) -> None:
        if not self.has_text:
            raise EngineError(
                "the file has no vocabulary (tokenizer.ggml.model is no_vocab), so no text",
                file=self._file,
            )

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        Args:
            add_special: add BOS and EOS if the model needs them.
            parse_special: read `<|im_start|>` and the like as the tokens they name.

        Raises:
            EngineError: the file has no vocabulary.
        """
        ids = self.tokenize_array(text, add_special=add_special, parse_special=parse_special)
        return [int(t) for t in ids]

    def tokenize_array(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> NDArray[np.int32]:
        """Like `tokenize`, as int32 [n]: for texts of megabytes."""
        self._need_text()
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            buffer = np.empty(room, np.int32)
            pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            n = self._llama.llama_tokenize(
                self._vocab, data, len(data), pointer, room, add_special, parse_special
            )
            if n >= 0:
                return buffer[:n].copy()
            if n == -(2**31):
                raise EngineError("the text is too long to tokenize", file=self._file)
            room = -n

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token; empty for special tokens, unless requested."""
        self._need_text()
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = self._llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of tokens, as llama.cpp joins it (leading space of SentencePiece included)."""
        self._need_text()
        ids = np.ascontiguousarray(tokens, np.int32)
        room = 16 * len(ids) + 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = self._llama.llama_detokenize(
                self._vocab,
                ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
                len(ids),
                buffer,
                room,
                False,
                special,
            )
            if n >= 0:
                return buffer.raw[:n].decode("utf-8", "replace")
            room = -n
