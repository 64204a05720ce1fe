"""Why llama.cpp does not take a file: what the header shows, else llama.cpp's message."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import EngineError, FormatError, GGSurgeryError
from ..ggufio.header import read_header
from ..ggufio.purpose import not_a_model
from ..ggufio.split import is_leftover
from ..ggufio.types import Header

_NATIVE = "<" if sys.byteorder == "little" else ">"


def unfit(header: Header) -> GGSurgeryError | None:
    """The error for a file whose form llama.cpp does not read; None if there is none."""
    if header.order != _NATIVE:
        return EngineError(
            "llama.cpp runs files in the byte order of this machine only",
            file=header.path,
            expected=f"{sys.byteorder}-endian",
            found="big-endian" if header.order == ">" else "little-endian",
            hint=f"Convert it with gguf-py: gguf-convert-endian FILE {sys.byteorder}",
        )
    if is_leftover(header):
        return EngineError(
            "the file is complete, but its header names further files",
            file=header.path,
            tensor="split.count",
            found=header.get("split.count"),
            hint="Mend it with: ggsurgery meta unset split.count IN OUT",
        )
    return None


def refusal(path: Path, what: str, message: str) -> GGSurgeryError:
    """The error for a file that llama.cpp did not load.

    Args:
        what: what should have been loaded, for the message.
        message: llama.cpp's message.
    """
    found: GGSurgeryError | None
    try:
        header = read_header(path)
        found = unfit(header) or (not_a_model(header) if header.tensors else None)
    except FormatError as error:
        found = error
    return found or EngineError(
        f"llama.cpp cannot load {what}: {message or 'no reason given'}",
        file=path,
        hint="`ggsurgery verify` shows more about the file.",
    )
