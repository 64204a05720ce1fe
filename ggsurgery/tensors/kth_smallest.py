"""The k-th smallest magnitude of any number of weights, exactly, in constant memory.

    sample      a million weights give the approximate threshold
    one pass    count what is below that range, and what lies where inside it
    (again)     only if the sample was wrong, or to split a bin of F32 further

Magnitudes are compared as the bits of their float32 value without the sign ("keys"),
which order them; F16 and BF16 have a table from their own keys to these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from ..errors import PlanError
from .kernels import F32, NAN_KEY, Counts, Raw, backend
from .mapped_pages import drop
from .parallel import reduce_blocks

#: Items of the table that one pass counts into: 1 MiB a thread, which a cache holds.
TABLE = 1 << 18
#: Tables up to this size are kept for every tensor, so that ties need no further pass.
SMALL = 1 << 12
_FLUSH = 1 << 31  # the kernels count in 32 bits


#: Magnitudes of pieces of one tensor, picked at random: [pieces, numbers].
Sample = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of weights of one tensor: their type, how many, and how to get the bytes."""

    tensor: int
    kind: int
    count: int
    load: Callable[[], Raw]

    @contextmanager
    def look(self) -> Iterator[Raw]:
        """The bytes for as long as the block lasts."""
        raw = self.load()
        try:
            yield raw
        finally:
            drop(raw)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The k-th smallest magnitude among `total` weights (NaN not counted)."""

    value: np.float32
    below: int
    equal: int
    total: int
    equal_by_tensor: dict[int, int] | None
    """How many weights of each tensor equal the threshold, if that is known already."""


@dataclass
class _Tally:
    """The counts of one thread."""

    tables: dict[tuple[int, int], Counts] = field(default_factory=dict)
    totals: dict[tuple[int, int], npt.NDArray[np.uint64]] = field(default_factory=dict)
    counted: dict[tuple[int, int], int] = field(default_factory=dict)
    below: int = 0


@cache
def key_table(kind: int) -> npt.NDArray[np.uint32]:
    """float32 key of every key of a float type that is not NaN, ascending (F16, BF16)."""
    own = np.arange(NAN_KEY[kind], dtype=np.uint16)
    return backend().decode(kind, own.view(np.uint8)).view(np.uint32)


def own_key(kind: int, key: int) -> int:
    """The first key of `kind` whose magnitude is at least that of the float32 key."""
    if kind == F32:
        return key
    return int(np.searchsorted(key_table(kind), np.uint32(key)))


def kth_smallest(
    pieces: Callable[[], Iterable[Piece]], k: int, *, threads: int, sample: Sequence[Sample] = ()
) -> Threshold:
    """The magnitude with exactly `k - 1` or fewer smaller and at least `k` not larger ones.

    Args:
        pieces: yields the weights block by block; called once a pass.
        k: rank, from 1.
        sample: magnitudes picked at random from each tensor; they only make it faster.

    Raises:
        PlanError: there are fewer than `k` weights that are not NaN.
    """
    lo, hi = _bracket(sample, k, pieces)
    seen_below = 0  # known number of keys below `lo`, once a pass has counted them
    while True:
        shift = max(0, (hi - lo - 1).bit_length() - TABLE.bit_length() + 1)
        counts, seen_below = _count(pieces, lo, hi, shift, threads)
        inside = sum(int(c.sum()) for c in counts.values())
        if k <= seen_below:
            lo, hi = 0, lo
            continue
        if k > seen_below + inside:
            if hi >= NAN_KEY[F32]:
                raise PlanError(
                    "too few weights that are numbers", expected=k, found=seen_below + inside
                )
            lo, hi = hi, NAN_KEY[F32]
            continue
        shift = shift if any(kind == F32 for _, kind in counts) else 0
        keys, bins = _merge(counts, lo, shift)
        position = int(np.searchsorted(np.cumsum(bins), k - seen_below))
        key = int(keys[position])
        if shift == 0:
            break
        lo, hi = key, min(hi, key + (1 << shift))
    return Threshold(
        value=np.uint32(key).view(np.float32),
        below=seen_below + int(bins[:position].sum()),
        equal=int(bins[position]),
        total=_total(pieces),
        equal_by_tensor=_ties(counts, lo, key),
    )


def _total(pieces: Callable[[], Iterable[Piece]]) -> int:
    return sum(p.count for p in pieces())


def _bracket(
    sample: Sequence[Sample], k: int, pieces: Callable[[], Iterable[Piece]]
) -> tuple[int, int]:
    """Keys between which the threshold most likely lies: three standard errors to each side.

    The error is estimated between the pieces of a tensor, since neighbours are alike; that
    tensors differ is not an error, as each is sampled by its share of the weights.
    """
    everything = (0, NAN_KEY[F32])
    if not sample:
        return everything
    together = np.sort(np.concatenate([s.reshape(-1) for s in sample]))
    together = together[~np.isnan(together)]
    if together.size < 4096:
        return everything
    quantile = k / _total(pieces)
    guess = together[min(together.size - 1, int(quantile * together.size))]
    n_pieces = sum(len(s) for s in sample)
    variance = sum(len(s) * float((s < guess).mean(axis=1).var()) for s in sample) / n_pieces
    error = 3 * np.sqrt(variance / n_pieces) + 8 / together.size
    low = int((quantile - error) * together.size)
    high = int((quantile + error) * together.size) + 1
    keys = together.view(np.uint32)
    lo = int(keys[low]) if low > 0 else 0
    hi = int(keys[high]) + 1 if high < together.size else NAN_KEY[F32]
    return (lo, hi) if hi > lo else everything


def _count(
    pieces: Callable[[], Iterable[Piece]], lo: int, hi: int, shift: int, threads: int
) -> tuple[dict[tuple[int, int], npt.NDArray[np.uint64]], int]:
    """One pass: counts by (tensor, type), tensor −1 where they are not kept apart."""
    kernel = backend()
    ranges: dict[int, tuple[int, int]] = {}

    def bounds(kind: int) -> tuple[int, int]:
        if kind not in ranges:
            ranges[kind] = own_key(kind, lo), own_key(kind, hi)
        return ranges[kind]

    def step(tally: _Tally, piece: Piece) -> None:
        with piece.look() as raw:
            count(tally, piece, raw)

    def count(tally: _Tally, piece: Piece, raw: Raw) -> None:
        first, last = bounds(piece.kind)
        if first == last:  # no number of this type lies in the range
            tally.below += kernel.count(piece.kind, raw, 0, first)
            return
        bits = shift if piece.kind == F32 else 0
        size = ((last - first - 1) >> bits) + 1
        where = (piece.tensor if size <= SMALL else -1, piece.kind)
        if where not in tally.tables:
            tally.tables[where] = np.zeros(size, np.uint32)
            tally.totals[where] = np.zeros(size, np.uint64)
            tally.counted[where] = 0
        table = tally.tables[where]
        tally.below += kernel.histogram(piece.kind, raw, first, last, table, shift=bits)
        tally.counted[where] += piece.count
        if tally.counted[where] > _FLUSH:
            _flush(tally, where)

    tallies = reduce_blocks(pieces(), _Tally, step, threads)
    counts: dict[tuple[int, int], npt.NDArray[np.uint64]] = {}
    for tally in tallies:
        for where in tally.tables:
            _flush(tally, where)
            counts[where] = counts.get(where, 0) + tally.totals[where]
    return counts, sum(t.below for t in tallies)


def _flush(tally: _Tally, where: tuple[int, int]) -> None:
    tally.totals[where] += tally.tables[where]
    tally.tables[where][:] = 0
    tally.counted[where] = 0


def _merge(
    counts: dict[tuple[int, int], npt.NDArray[np.uint64]], lo: int, shift: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Counts of all types together: first float32 key of each bin that is not empty, count."""
    keys, numbers = [], []
    for (_, kind), own in counts.items():
        used = np.flatnonzero(own)
        if kind == F32:
            keys.append(lo + (used << shift))
        else:
            exact = key_table(kind)[own_key(kind, lo) + used].astype(np.int64)
            keys.append(lo + ((exact - lo) >> shift << shift))
        numbers.append(own[used])
    together, where = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.zeros(together.size, np.uint64)
    np.add.at(total, where, np.concatenate(numbers))
    return together.astype(np.int64), total


def _ties(
    counts: dict[tuple[int, int], npt.NDArray[np.uint64]], lo: int, key: int
) -> dict[int, int] | None:
    """How often the key occurs in each tensor, unless some were counted together."""
    ties: dict[int, int] = {}
    for (tensor, kind), own in counts.items():
        at = own_key(kind, key) - own_key(kind, lo)
        exact = kind == F32 or (
            0 <= at < own.size and int(key_table(kind)[own_key(kind, key)]) == key
        )
        found = int(own[at]) if exact and 0 <= at < own.size else 0
        if found and tensor < 0:
            return None
        ties[tensor] = ties.get(tensor, 0) + found
    return ties
