"""Write a laid-out file: copy bytes where nothing changes, compute where something does.

One question has to be asked of all weights before the first is written: where the threshold
of a global prune lies. `settle` answers it in a pass of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.atomic import atomic_path, check_output
from ..files.system_errors import read_error
from ..ggufio.copying import ReadFailed, copy_range, write_all
from ..ggufio.header import read_shard
from ..ggufio.reader import Source
from ..host import n_threads
from .layout import Compute, Copy, FileLayout, Piece

#: Called with the number of bytes read or written since the last call.
Progress = Callable[[int], object]


def unsettled_bytes(layout: FileLayout) -> int:
    """How much `settle` would have to read at least; 0 where nothing is to be found."""
    exprs = [p.job.expr for p in layout.pieces if isinstance(p.job, Compute)]
    if not exprs:
        return 0  # plain copying loads none of the arithmetic
    from ..tensors.expr import reads
    from ..tensors.global_threshold import pending

    return sum(r.tensor.nbytes for e in exprs if pending([e]) for r in set(reads(e)))


def settle(
    layout: FileLayout,
    sources: Sequence[Source],
    *,
    threads: int | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> FileLayout:
    """The layout with the thresholds found that hold for many tensors together.

    It is exact at any size and needs constant memory. A layout without such thresholds comes
    back as it is.

    Args:
        progress: called with the bytes read since the last call.

    Raises:
        FormatError: a tensor cannot be decoded, or a file ends early.
    """
    places = [n for n, p in enumerate(layout.pieces) if isinstance(p.job, Compute)]
    exprs = [p.job.expr for p in layout.pieces if isinstance(p.job, Compute)]
    if not exprs:
        return layout
    from ..tensors import global_threshold
    from ..tensors.read_rows import RowReader
    from ..tensors.two_pass import Resolver

    if not global_threshold.pending(exprs):
        return layout
    resolver = Resolver(RowReader(sources, given, progress), threads or n_threads())
    pieces = list(layout.pieces)
    for place, expr in zip(places, global_threshold.settle(exprs, resolver), strict=True):
        pieces[place] = replace(pieces[place], job=Compute(expr))
    return replace(layout, pieces=tuple(pieces))


def execute(
    layout: FileLayout,
    sources: Sequence[Source],
    out: Path,
    *,
    force: bool = False,
    sync: bool = False,
    threads: int | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the file. It appears under its name only when it is whole.

    Args:
        layout: what to write.
        sources: the opened inputs, in the plan's order.
        out: the file to make.
        force: replace an existing file.
        sync: wait until the data is on the disk before the file gets its name.
        threads: threads for computed tensors; None takes `host.n_threads`.
        given: float32 arrays for `expr.Given`, by key.
        progress: called with the bytes written since the last call.

    Raises:
        OutputError: the output exists, is an input, or does not fit on the disk.
        InputError: an input cannot be read, or changed while it was read.
    """
    inputs = [path for source in sources for path in source.header.paths]
    check_output(out, inputs, force=force, nbytes=layout.n_bytes)
    layout = settle(layout, sources, threads=threads, given=given)
    with atomic_path(out, inputs=inputs, force=force, sync=sync) as temporary:
        write_pieces(layout, sources, temporary, out, threads, given or {}, progress)


def write_pieces(
    layout: FileLayout,
    sources: Sequence[Source],
    temporary: Path,
    out: Path,
    threads: int | None,
    given: Mapping[str, Any],
    progress: Progress | None,
) -> None:
    """Fill a file that is there and empty, and read its header back.

    Args:
        out: the name that the file will get, for messages; the rest as of `execute`.
    """
    target = os.open(temporary, os.O_RDWR)
    try:
        write_all(target, layout.header, 0)
        os.ftruncate(target, layout.n_bytes)  # paddings are holes, which read as zeros
        for piece in layout.pieces:
            _write(piece, layout, sources, target, threads, given)
            if progress is not None:
                progress(piece.info.nbytes)
    finally:
        os.close(target)
    for source in sources:
        source.check_unchanged()
    _check_written(temporary, layout, out)


def _write(
    piece: Piece,
    layout: FileLayout,
    sources: Sequence[Source],
    target: int,
    threads: int | None,
    given: Mapping[str, Any],
) -> None:
    to = len(layout.header) + piece.info.offset
    match piece.job:
        case Copy(number, tensor):
            source = sources[number]
            descriptor, at = source.descriptor(tensor.shard), source.position(tensor)
            try:
                copy_range(descriptor, target, tensor.nbytes, at, to)
            except ReadFailed as error:
                source.check_unchanged()
                path = source.header.paths[tensor.shard]
                raise read_error(error, path, tensor.name) from error
        case Compute(expr):
            from ..tensors.evaluate import evaluate

            for block in evaluate(expr, piece.info.type, sources, threads=threads, given=given):
                write_all(target, block, to)
                to += memoryview(block).nbytes


def _check_written(temporary: Path, layout: FileLayout, out: Path) -> None:
    """Read the header back: a bug or a bad disk must not hand out a wrong file."""
    written = read_shard(temporary)
    if written.tensors != layout.tensor_infos() or written.file_size[0] != layout.n_bytes:
        raise OutputError(
            "the written header differs from the plan; nothing was kept",
            file=out,
            hint="Please report this with the command and `ggsurgery doctor`.",
        )
