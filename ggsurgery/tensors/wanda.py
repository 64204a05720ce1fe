"""The norms of a matrix's inputs, which Wanda weighs the weights by, from an imatrix."""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from ..errors import FormatError
from ..ggufio.imatrix import Imatrix, read_imatrix
from .kernels import Values

#: Prefix of the keys of `Given` for such norms: `imatrix:PATH|TENSOR`.
IMATRIX = "imatrix:"


def slab_count(shape: tuple[int, ...]) -> int:
    """How many matrices a tensor stacks: its experts."""
    return prod(shape[2:])


def input_norms(key: str, width: int, slabs: int) -> Values:
    """Root mean square of every input of a matrix over the calibration tokens.

    Wanda uses Σ x²; the mean differs by the token count, the same factor for every tensor.

    Args:
        key: `PATH|TENSOR`.

    Returns:
        float32 [slabs, width], flat; one row for all experts where the file has only that.

    Raises:
        FormatError: the imatrix has no such tensor, or one of another width.
    """
    path, _, name = key.rpartition("|")
    entry = read_for_norms(path).entries.get(name)
    if entry is None:
        raise FormatError(
            "the imatrix does not know the tensor",
            file=path,
            tensor=name,
            hint="Make it on this very model, or leave the tensor out with `only`.",
        )
    means = entry.means()
    if means.size not in (width, width * slabs):
        raise FormatError(
            "the imatrix belongs to a model of other shapes",
            file=path,
            tensor=name,
            expected=width * slabs,
            found=means.size,
        )
    norms: Values = np.sqrt(np.broadcast_to(means.reshape(-1, width), (slabs, width)))
    return np.ascontiguousarray(norms, np.float32).reshape(-1)


@lru_cache(maxsize=2)
def read_for_norms(path: str) -> Imatrix:
    """An importance matrix, kept: every tensor of a model asks for it."""
    return read_imatrix(path)
