"""Metadata entries whose type is not the one that llama.cpp reads."""

from __future__ import annotations

from collections.abc import Iterator

from ..arch import Finding
from ..ggufio.key_types import key_type, type_text
from ..ggufio.types import Header

_TOKENIZER = "tokenizer.ggml."
#: Read before llama.cpp looks which vocabulary the file has.
_OF_EVERY_VOCABULARY = ("model", "pre", "token_type_count")
#: Read for these vocabularies only.
_OF_SOME_VOCABULARIES = {
    "merges": ("gpt2", "hybriddna", "whitespace", "gemma4"),
    "precompiled_charsmap": ("t5",),
}
#: Architectures whose loaders read `vocab_size` of a file with tokens too.
_READ_VOCAB_SIZE = ("llama", "llama-embed", "deepseek2", "mistral4")

#: Keys that llama.cpp reads only where another one is missing.
_READ_WITHOUT = {
    "rope.scale_linear": "rope.scaling.factor",
    "full_attention_interval": "attention.recurrent_layers",
}


def entry_type_findings(header: Header) -> Iterator[Finding]:
    """An error for each entry of a wrong type that llama.cpp refuses, else a warning."""
    for key, value in header.metadata.items():
        known = key_type(key, header.architecture)
        if known is None or known.accepts(value):
            continue
        refused = known.enforced and _read(header, key)
        yield Finding(
            "error" if refused else "warning",
            key,
            f"has the type {type_text(value)}, expected {known.wanted}"
            + (": llama.cpp refuses the file" if refused else ""),
            f"`ggsurgery meta set {key} VALUE IN OUT` writes the right type.",
        )


def _read(header: Header, key: str) -> bool:
    """Whether llama.cpp reads a key of the table in this file."""
    vocabulary = header.get(_TOKENIZER + "model")
    none = vocabulary in ("no_vocab", "none")
    if key.startswith(_TOKENIZER):
        name = key.removeprefix(_TOKENIZER)
        if name in _OF_SOME_VOCABULARIES:
            return vocabulary in _OF_SOME_VOCABULARIES[name]
        return name in _OF_EVERY_VOCABULARY or not none
    prefix = f"{header.architecture}."
    if key == prefix + "vocab_size":
        return none or header.architecture in _READ_VOCAB_SIZE
    other = _READ_WITHOUT.get(key.removeprefix(prefix))
    return other is None or prefix + other not in header.metadata
