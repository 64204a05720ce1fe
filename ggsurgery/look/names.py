"""Names and values that are not UTF-8: llama.cpp loads them, other readers fail."""

from __future__ import annotations

from collections.abc import Iterator

from gguf.constants import GGUFValueType

from ..arch import Finding
from ..ggufio.types import Header

_PROBLEM = "is not valid UTF-8: readers that take it for text, as gguf-py does, fail on the file"


def name_findings(header: Header) -> Iterator[Finding]:
    """A warning for each key, string and tensor name with other bytes in it."""
    for key, value in header.metadata.items():
        if not _is_utf8(key):
            yield _warning(key, "the key", "meta unset KEY")
        if value.type is GGUFValueType.STRING and not _is_utf8(value.value):
            yield _warning(key, "the value", "meta set KEY VALUE")
    for tensor in header.tensors:
        if not _is_utf8(tensor.name):
            yield _warning(tensor.name, "the name", "meta drop-tensor NAME")


def _warning(where: str, what: str, command: str) -> Finding:
    return Finding(
        "warning", where, f"{what} {_PROBLEM}", f"`ggsurgery {command} IN OUT` mends the file."
    )


def _is_utf8(text: str) -> bool:
    return not any("\udc80" <= c <= "\udcff" for c in text)
