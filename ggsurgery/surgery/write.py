"""Write a laid-out file: copy bytes where nothing changes, compute where something does.

Two questions have to be answered before the first weight is written: where the threshold of a
global prune lies, and how the neurons of merged experts are aligned. `settle` answers them in a
pass of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.atomic import atomic_path, check_output
from ..files.progress import Progress
from ..files.shard_names import shard_names
from ..files.system_errors import read_error
from ..ggufio.copying import ReadFailed, copy_parts, copy_range, write_all
from ..ggufio.header import read_shard
from ..ggufio.reader import Source
from ..host import n_threads
from .layout import Compute, Copy, FileLayout, Piece

#: Called with the number of bytes read or written since the last call.
Advance = Callable[[int], object]

#: Opened for each stage of the work with its name and its size in bytes.
Stages = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def unseen(_name: str, _n_bytes: int) -> Iterator[Advance]:
    """The stages of a run whose progress is not shown."""
    yield lambda _n: None


def stages_of(progress: Progress | None) -> Stages:
    """Stages that report (bytes done, bytes in all) of each to one function."""

    @contextmanager
    def stages(_name: str, total: int) -> Iterator[Advance]:
        done = 0

        def tick(n: int) -> None:
            nonlocal done
            done += n
            if progress is not None:
                progress(done, total)

        yield tick

    return stages


def unsettled_bytes(layout: FileLayout) -> int:
    """How much `settle` would have to read at least; 0 where nothing is to be found."""
    exprs = [p.job.expr for p in layout.pieces if isinstance(p.job, Compute)]
    if not exprs:
        return 0  # plain copying loads none of the arithmetic
    from ..tensors import global_threshold, merge_stack
    from ..tensors.expr import reads

    unsettled = [e for e in exprs if global_threshold.pending([e]) or merge_stack.pending([e])]
    return sum(read.tensor.nbytes for read in {r for e in unsettled for r in reads(e)})


def settle(
    layout: FileLayout,
    sources: Sequence[Source],
    *,
    threads: int | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Advance | None = None,
) -> FileLayout:
    """The layout with the thresholds found that hold for many tensors together, and the
    neurons of merged experts in order.

    It is exact at any size and needs constant memory. A layout without either comes
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
    from ..tensors import global_threshold, merge_stack
    from ..tensors.read_rows import RowReader
    from ..tensors.two_pass import Resolver

    if not global_threshold.pending(exprs) and not merge_stack.pending(exprs):
        return layout
    reader = RowReader(sources, given, progress)
    exprs = merge_stack.settle(exprs, reader)
    exprs = global_threshold.settle(exprs, Resolver(reader, threads or n_threads()))
    pieces = list(layout.pieces)
    for place, expr in zip(places, exprs, strict=True):
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
    spared: Sequence[Path] = (),
    split_max_size: int | None = None,
    stages: Stages = unseen,
) -> tuple[FileLayout, tuple[Path, ...]]:
    """Write the file, or several. They are renamed when all of them are complete.

    Args:
        layout: what to write.
        sources: the opened inputs, in the plan's order.
        out: the file to make.
        force: replace an existing file.
        sync: wait until the data is on the disk before the file gets its name.
        threads: threads for computed tensors; None takes `host.n_threads`.
        given: float32 arrays for `expr.Given`, by key.
        spared: further files that `out` must not replace.
        split_max_size: write several files with tensors of at most so many bytes each.
        stages: shows the progress of each stage.

    Returns:
        The layout with its thresholds found, and the files, the first of which names the model.

    Raises:
        OutputError: an output exists, is an input, or does not fit on the disk.
        InputError: an input cannot be read, or changed while it was read.
    """
    inputs = [path for source in sources for path in source.header.paths]
    files = _files(layout, out, split_max_size)
    paths, n_bytes = [path for path, _ in files], sum(part.n_bytes for _, part in files)
    for path in paths:
        check_output(path, [*inputs, *spared], force=force, nbytes=n_bytes)
    if unsettled := unsettled_bytes(layout):
        with stages("first pass", unsettled) as tick:
            layout = settle(layout, sources, threads=threads, given=given, progress=tick)
        files = _files(layout, out, split_max_size)
    made: dict[Path, int] = {}
    try:
        with ExitStack() as stack, stages(out.name, layout.n_bytes) as tick:
            atomic = [atomic_path(p, inputs=inputs, force=force, sync=sync) for p in paths]
            opened = [stack.enter_context(file) for file in atomic]
            for (path, part), temporary in zip(files, opened, strict=True):
                _write_file(part, sources, temporary, path, threads, given or {}, tick)
                made[path] = temporary.stat().st_ino
    except BaseException:  # a name that could not be given: no part of a model stays
        for path, number in made.items():
            with suppress(FileNotFoundError):
                if path.stat().st_ino == number:
                    path.unlink()
        raise
    return layout, tuple(paths)


def split_file(path: Path, out: Path, max_bytes: int, *, force: bool = False) -> tuple[Path, ...]:
    """Split a file that another program wrote, byte for byte; it stays as it is.

    Args:
        out: the name that the numbers are put into.
    """
    with Source(path) as source:
        header = source.header
        pieces = tuple(Piece(t, Copy(0, t)) for t in header.tensors)
        layout = FileLayout(header.metadata, pieces, header.order, header.alignment, b"", ())
        return execute(layout, [source], out, force=force, split_max_size=max_bytes)[1]


def _files(layout: FileLayout, out: Path, max_bytes: int | None) -> list[tuple[Path, FileLayout]]:
    """The names of the files and what each holds."""
    if max_bytes is None:
        return [(out, layout)]
    from .shards import split_layout

    parts = split_layout(layout, max_bytes)
    names = shard_names(out.name.removesuffix(".gguf"), len(parts))
    return list(zip(map(out.with_name, names), parts, strict=True))


def _write_file(
    layout: FileLayout,
    sources: Sequence[Source],
    temporary: Path,
    out: Path,
    threads: int | None,
    given: Mapping[str, Any],
    progress: Advance,
) -> None:
    """Fill an empty file, and read its header back.

    Args:
        out: the name that the file will get, for messages; the rest as of `execute`.
    """
    target = os.open(temporary, os.O_RDWR)
    try:
        write_all(target, layout.header, 0)
        os.ftruncate(target, layout.n_bytes)  # paddings are holes, which read as zeros
        for piece in layout.pieces:
            _write(piece, layout, sources, target, threads, given)
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
        case Copy(number, tensor, parts):
            source = sources[number]
            descriptor, at = source.descriptor(tensor.shard), source.position(tensor)
            size = tensor.nbytes if parts is None else tensor.nbytes // tensor.shape[-1]
            try:
                if parts is None:
                    copy_range(descriptor, target, size, at, to)
                else:
                    copy_parts(descriptor, target, parts, size, at, to)
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
