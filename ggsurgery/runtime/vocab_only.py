"""Load a file's vocabulary into llama.cpp without its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from ..files.closing import Closing
from ..files.shard_names import siblings
from . import binding, log
from .refusal import refusal
from .vocabulary import Vocabulary


class VocabularyFile(Vocabulary, Closing):
    """The tokenizer of a GGUF as llama.cpp runs it; close it or use `with`.

    Raises:
        EngineError: llama.cpp does not take the vocabulary; its own words are quoted.

    Example:
        >>> with VocabularyFile("model.gguf") as vocabulary:  # doctest: +SKIP
        ...     vocabulary.tokenize("Hello")
    """

    def __init__(self, path: str | Path) -> None:
        llama = binding.llama()
        parameters = llama.llama_model_default_params()
        parameters.vocab_only = True
        with log.capture() as lines:
            self._loaded = llama.llama_model_load_from_file(
                os.fsencode(siblings(Path(path))[0]), parameters
            )
        if not self._loaded:
            raise refusal(Path(path), "the vocabulary", lines.errors())
        super().__init__(llama, self._loaded, Path(path))

    def close(self) -> None:
        if self._loaded:
            self._llama.llama_model_free(self._loaded)
            self._loaded = None

    def __enter__(self) -> Self:
        return self
