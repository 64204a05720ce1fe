"""Write a file as several, named and marked as llama-gguf-split does, so that its merge takes them.

out-00001-of-00003.gguf   all metadata, and split.no 0, split.count 3, split.tensors.count
out-00002-of-00003.gguf   the same three entries alone
out-00003-of-00003.gguf

A file ends before the tensor that would take its tensors beyond the size; a larger tensor has a
file of its own. Metadata does not count (gguf-split.cpp, split_strategy).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..errors import OutputError
from ..ggufio.constants import GGUFValueType, Keys
from ..ggufio.types import Value
from ..ggufio.writer import encode_header, padded
from .layout import FileLayout, Piece, place

#: The format counts files in five digits of the name and 16 bits of the header.
MAX_FILES = 65535


def split_layout(layout: FileLayout, max_bytes: int) -> tuple[FileLayout, ...]:
    """The layouts of the files, each with tensors of at most `max_bytes`.

    Raises:
        OutputError: more files than the format can count.
    """
    numbers = file_numbers([p.info.nbytes for p in layout.pieces], layout.alignment, max_bytes)
    groups: list[list[Piece]] = [[] for _ in range(max(numbers, default=0) + 1)]
    for piece, number in zip(layout.pieces, numbers, strict=True):
        groups[number].append(piece)
    if len(groups) > MAX_FILES:
        raise OutputError(
            "too many files",
            expected=f"at most {MAX_FILES}",
            found=len(groups),
            hint="Give a larger `split_max_size`.",
        )
    return tuple(_file(layout, group, number, len(groups)) for number, group in enumerate(groups))


def file_numbers(sizes: Iterable[int], alignment: int, max_bytes: int) -> list[int]:
    """The file, from 0, that each tensor goes to."""
    found: list[int] = []
    used = number = 0
    for size in (padded(n, alignment) for n in sizes):
        if used and used + size > max_bytes:
            number, used = number + 1, 0
        found.append(number)
        used += size
    return found


def _file(layout: FileLayout, pieces: Sequence[Piece], number: int, count: int) -> FileLayout:
    u16, i32 = GGUFValueType.UINT16, GGUFValueType.INT32  # llama-gguf-split's types and order
    metadata = dict(layout.metadata) if number == 0 else {}
    metadata |= {
        Keys.Split.LLM_KV_SPLIT_NO: Value.of(number, u16, order=layout.order),
        Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT: Value.of(
            len(layout.pieces), i32, order=layout.order
        ),
        Keys.Split.LLM_KV_SPLIT_COUNT: Value.of(count, u16, order=layout.order),
    }
    if number and "general.alignment" in layout.metadata:
        metadata["general.alignment"] = layout.metadata["general.alignment"]
    placed = tuple(place(pieces, layout.alignment))
    infos = [piece.info for piece in placed]
    header = encode_header(metadata, infos, layout.order, layout.alignment)
    return replace(layout, metadata=metadata, pieces=placed, header=header)
