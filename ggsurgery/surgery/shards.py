"""Write a file as several, named and marked as llama-gguf-split does, so that its merge takes them.

out-00001-of-00003.gguf   all metadata, and split.no 0, split.count 3, split.tensors.count
out-00002-of-00003.gguf   the same three entries alone
out-00003-of-00003.gguf

A file ends before the tensor that would take its tensors beyond the size; a larger tensor has a
file of its own. Metadata does not count (gguf-split.cpp, split_strategy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.atomic import atomic_path, check_output
from ..ggufio.constants import GGUFValueType, Keys
from ..ggufio.reader import Source
from ..ggufio.types import Value
from ..ggufio.writer import encode_header, padded
from .layout import Copy, FileLayout, Piece, place
from .write import Progress, settle, write_pieces

#: The format counts files in five digits of the name and 16 bits of the header.
MAX_FILES = 65535


def split_layout(layout: FileLayout, max_bytes: int) -> tuple[FileLayout, ...]:
    """The layouts of the files, each with tensors of at most `max_bytes`.

    Raises:
        OutputError: more files than the format can count.
    """
    groups: list[list[Piece]] = [[]]
    used = 0
    for piece in layout.pieces:
        size = padded(piece.info.nbytes, layout.alignment)
        if groups[-1] and used + size > max_bytes:
            groups.append([])
            used = 0
        groups[-1].append(piece)
        used += size
    if len(groups) > MAX_FILES:
        raise OutputError("too many files", expected=f"at most {MAX_FILES}", found=len(groups),
                          hint="Give a larger --split-max-size.")  # fmt: skip
    return tuple(_file(layout, group, number, len(groups)) for number, group in enumerate(groups))


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


def shard_names(out: Path, count: int) -> list[Path]:
    """`out-0000K-of-0000N.gguf` beside `out`."""
    stem = out.name.removesuffix(".gguf")
    return [out.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]


def execute_split(
    layout: FileLayout,
    sources: Sequence[Source],
    out: Path,
    max_bytes: int,
    *,
    force: bool = False,
    sync: bool = False,
    threads: int | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write the files of `split_layout`; they get their names when all are whole.

    Args:
        out: the name that the numbers are put into; the rest as of `execute.execute`.

    Returns:
        The files, the first of which names the model.

    Raises:
        OutputError: a file exists, is an input, or they do not fit on the disk.
    """
    layout = settle(layout, sources, threads=threads, given=given)
    parts = split_layout(layout, max_bytes)
    paths = shard_names(out, len(parts))
    inputs = [path for source in sources for path in source.header.paths]
    total = sum(part.n_bytes for part in parts)
    for path in paths:
        check_output(path, inputs, force=force, nbytes=total)
    made: dict[Path, int] = {}
    try:
        with ExitStack() as stack:
            files = [atomic_path(p, inputs=inputs, force=force, sync=sync) for p in paths]
            opened = [stack.enter_context(file) for file in files]
            for part, temporary, path in zip(parts, opened, paths, strict=True):
                write_pieces(part, sources, temporary, path, threads, given or {}, progress)
                made[path] = temporary.stat().st_ino
    except BaseException:  # a name that could not be given: no part of a model stays
        for path, number in made.items():
            with suppress(FileNotFoundError):
                if path.stat().st_ino == number:
                    path.unlink()
        raise
    return paths


def split_file(
    path: Path, out: Path, max_bytes: int, *, force: bool = False, progress: Progress | None = None
) -> list[Path]:
    """Split a file that another program wrote, byte for byte.

    Args:
        path: the whole file; it stays.
        out: as of `execute_split`.
    """
    with Source(path) as source:
        header = source.header
        pieces = tuple(Piece(t, Copy(0, t)) for t in header.tensors)
        layout = FileLayout(header.metadata, pieces, header.order, header.alignment, b"", ())
        return execute_split(layout, [source], out, max_bytes, force=force, progress=progress)
