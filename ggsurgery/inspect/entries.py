"""Metadata entries: their types, the counts in them, and names that are not UTF-8.

The counts are those of `llama_model_base::load_hparams` (src/llama-model.cpp, 0c1e570), which
aborts on them or refuses the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..arch import Finding
from ..arch.asked import surveyed
from ..arch.dimensions import dimensions
from ..ggufio.constants import GGUFValueType
from ..ggufio.key_types import key_type, type_text
from ..ggufio.split import is_leftover
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

#: LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS (llama-hparams.h).
MAX_LAYERS, MAX_EXPERTS = 512, 1024

#: Architectures that rotate whole heads only.
_WHOLE_HEADS = ("llama", "llama-embed", "deci", "falcon")

_PROBLEM = "is not valid UTF-8: readers that take it for text, as gguf-py does, fail on the file"


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


def count_findings(header: Header) -> Iterator[Finding]:
    """Numbers of layers, experts and rotated dimensions that no model of llama.cpp can have."""
    arch = header.architecture
    if arch not in surveyed():
        return
    layers = header.number(f"{arch}.block_count")
    if layers is not None and not 0 < layers <= MAX_LAYERS:
        yield _wrong(f"{arch}.block_count", f"1 to {MAX_LAYERS}", layers)
    experts = header.number(f"{arch}.expert_count") or 0
    key = f"{arch}.expert_used_count"
    found = header.get(key, 0)
    used = max(found, default=0) if isinstance(found, list) else found
    if experts > MAX_EXPERTS:
        yield _wrong(f"{arch}.expert_count", f"at most {MAX_EXPERTS}", experts)
    if type(used) is int and arch not in ("hunyuan-dense", "hunyuan_vl"):
        if experts and not 0 < used <= experts:
            yield _wrong(key, f"1 to {experts}, the number of experts", used)
        elif not experts and used:
            yield _wrong(key, f"0 without {arch}.expert_count", used)
    rotated, head = header.number(f"{arch}.rope.dimension_count"), dimensions(header, 0).get("key")
    if arch in _WHOLE_HEADS and None not in (rotated, head) and rotated != head:
        yield _wrong(f"{arch}.rope.dimension_count", f"{head}, the length of a head", rotated)


def _wrong(key: str, expected: str, found: object) -> Finding:
    return Finding("error", key, f"expected {expected}, found {found}: llama.cpp refuses the file")


def name_findings(header: Header) -> Iterator[Finding]:
    """A warning for each key, string and tensor name with other bytes in it."""
    for key, value in header.metadata.items():
        if not _is_utf8(key):
            yield _warning(key, "the key", "meta unset KEY")
        if value.type == GGUFValueType.STRING and not _is_utf8(value.value):
            yield _warning(key, "the value", "meta set KEY VALUE")
    for tensor in header.tensors:
        if not _is_utf8(tensor.name):
            yield _warning(tensor.name, "the name", "meta drop-tensor NAME")


def split_findings(header: Header) -> Iterator[Finding]:
    """An error for a whole file that llama.cpp would take for one of several."""
    count = header.get("split.count")
    if is_leftover(header):
        yield Finding(
            "error",
            "split.count",
            f"names {count} files, and this one holds all tensors: llama.cpp refuses it",
            "Any change fixes it, such as: ggsurgery meta unset split.count IN OUT",
        )


def _warning(where: str, what: str, command: str) -> Finding:
    return Finding(
        "warning", where, f"{what} {_PROBLEM}", f"`ggsurgery {command} IN OUT` fixes the file."
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
