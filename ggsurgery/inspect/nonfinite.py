"""NaN and infinity in a file's weights: damage, or numbers too large for a conversion."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from ..arch import Finding
from ..ggufio.reader import Source
from ..host import n_threads
from ..tensors import finite, kernels, mapped_pages
from ..tensors.expr import Read
from ..tensors.parallel import reduce_blocks
from ..tensors.parts import is_integer
from ..tensors.read_rows import RowReader, Rows
from ..tensors.two_pass import row_blocks


def nonfinite_tensors(
    source: Source, progress: Callable[[int], object] | None = None
) -> Iterator[Finding]:
    """An error for every tensor that holds NaN or infinity, in memory of a few blocks.

    Args:
        progress: called with the bytes read since the last call.
    """
    header = source.header
    if (header.order == "<") != (sys.byteorder == "little"):
        yield Finding("warning", "weights", "not checked: the file has the other byte order", "")
        return
    reader = RowReader([source], progress=progress)
    for tensor in header.tensors:
        if is_integer(tensor.type) or not kernels.can_decode(tensor.type):
            continue
        read = Read(0, tensor)

        def step(bad: list[int], rows: Rows, read: Read = read) -> None:
            raw = reader.look(read, rows)
            bad[0] += finite.count_nonfinite(read.tensor.type, raw)
            mapped_pages.drop(raw)

        parts = reduce_blocks(row_blocks(read), lambda: [0], step, n_threads())
        if bad := sum(part[0] for part in parts):
            yield Finding(
                "error",
                tensor.name,
                f"{bad:,} of {tensor.n_elements:,} weights are NaN or infinite",
                "The file is damaged, or numbers were too large for a type on the way.",
            )
