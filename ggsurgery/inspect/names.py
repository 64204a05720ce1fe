"""Names that are not UTF-8, and entries of a split in a file that is whole."""

from __future__ import annotations

from collections.abc import Iterator

from ..arch import Finding
from ..ggufio.constants import GGUFValueType
from ..ggufio.split import is_leftover
from ..ggufio.types import Header

_PROBLEM = "is not valid UTF-8: readers that take it for text, as gguf-py does, fail on the file"


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
            "Any change mends it, such as: ggsurgery meta unset split.count IN OUT",
        )


def _warning(where: str, what: str, command: str) -> Finding:
    return Finding(
        "warning", where, f"{what} {_PROBLEM}", f"`ggsurgery {command} IN OUT` mends the file."
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
