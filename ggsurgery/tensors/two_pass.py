"""Compute the facts about whole tensors that a method needs, in passes of constant memory.

    slerp                       the angle between the parents       → linear
    ties with `density`         what magnitude is trimmed           → ties with `thresholds`
    mask with `sparsity`        the tensor's own threshold and cut  → mask with `threshold`

The rest can be evaluated row block by row block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ..errors import PlanError
from ..plan.edits import params
from . import kernels, merge_stack
from .expr import Apply, Combine, Expr, MergeStack, Read, Slice
from .kernels import F32, FLOAT_SIZES, NAN_KEY, Raw, backend
from .kth_smallest import Piece, Sample, Threshold, key_table, kth_smallest, own_key
from .parallel import reduce_blocks
from .read_rows import RowReader, Rows
from .shape import n_rows, shape_of

#: Numbers in a block: as float32 4 MiB, which stays in the cache that the cores share.
BLOCK = 1 << 20
#: Sample for the first guess of a threshold: number of pieces, and numbers per piece.
PIECES, PIECE = 16384, 64

#: Above this cosine the parents point the same way and slerp is lerp.
PARALLEL = 0.9995


def row_blocks(expr: Expr) -> Iterator[Rows]:
    """The rows of an expression, cut into blocks of about `BLOCK` numbers."""
    shape = shape_of(expr)
    height = max(1, BLOCK // shape[0])
    total = n_rows(shape)
    for start in range(0, total, height):
        yield ((start, min(total, start + height)),)


@dataclass(frozen=True, slots=True)
class Resolver:
    """Resolves expressions with the rows that `reader` evaluates."""

    reader: RowReader
    threads: int

    def resolve(self, expr: Expr) -> Expr:
        """The same expression with every number worked out that belongs to whole tensors."""
        match expr:
            case Apply(inner, method, options):
                inner = self.resolve(inner)
                if method == "mask" and "sparsity" in dict(options):
                    return Apply(inner, method, self._own_threshold(inner, dict(options)))
                return replace(expr, input=inner)
            case Slice(inner):
                return replace(expr, input=self.resolve(inner))
            case MergeStack():
                return merge_stack.settle([expr], self.reader)[0]
            case Combine(inputs, method, options):
                inputs = tuple(self.resolve(e) for e in inputs)
                named = dict(options)
                if method == "slerp":
                    return self._slerp(inputs, float(named["weight"]))
                if method == "mask" and "sparsity" in named:
                    return Combine(inputs, method, self._own_threshold(inputs[1], named))
                if method == "ties" and "thresholds" not in named:
                    named["thresholds"] = self._trims(inputs, float(named["density"]))
                    return Combine(inputs, method, params(**named))
                return Combine(inputs, method, options)
        return expr

    def moments(self, a: Expr, b: Expr) -> tuple[float, float, float]:
        """Σ a·b, Σ a·a, Σ b·b over whole tensors, in float64.

        The sums of the blocks are added without rounding between, so the result does not
        depend on which thread took which block.
        """
        kernel = backend()
        kind = common_float(a, b)

        def step(sums: list[tuple[float, float, float]], rows: Rows) -> None:
            x = self._bytes(a, rows, kind)
            y = self._bytes(b, rows, kind)
            sums.append(kernel.moments(F32 if kind is None else kind, x, y))

        parts = reduce_blocks(row_blocks(a), list[tuple[float, float, float]], step, self.threads)
        ab, aa, bb = (math.fsum(c) for c in zip(*(p for own in parts for p in own), strict=True))
        return ab, aa, bb

    def _bytes(self, expr: Expr, rows: Rows, kind: int | None) -> Raw:
        if kind is not None and isinstance(expr, Read):
            return self.reader.raw(expr, rows)
        return self.reader.values(expr, rows).view(np.uint8)

    def _look(self, expr: Expr, rows: Rows, kind: int | None) -> Raw:
        """As `_bytes`, for a look that ends with `Piece.drop`."""
        if kind is not None and isinstance(expr, Read):
            return self.reader.look(expr, rows)
        return self._bytes(expr, rows, kind)

    def _slerp(self, inputs: tuple[Expr, ...], weight: float) -> Expr:
        """Spherical interpolation (Shoemake 1985) of two tensors as flat vectors.

        The angle is that between them; the weights act on the tensors as they are, so their
        lengths are interpolated too.
        """
        ab, aa, bb = self.moments(*inputs)
        first, second = slerp_weights(ab, aa, bb, weight)
        return Combine(inputs, "linear", params(weights=(first, second)))

    def _trims(self, inputs: tuple[Expr, ...], density: float) -> tuple[float, ...]:
        """For each model the magnitude of the differences from which on they are kept."""
        trims = []
        for model in inputs[1:]:
            task = Combine((model, inputs[0]), "linear", params(weights=(1.0, -1.0)))
            total = prod(shape_of(task))
            dropped = total - round(density * total)
            if dropped <= 0:
                trims.append(0.0)
                continue
            found = self.threshold([task], min(total, dropped + 1))
            trims.append(float(found.value) if dropped < total else math.inf)
        return tuple(trims)

    def _own_threshold(self, score: Expr, options: dict[str, Any]) -> Any:
        """Parameters of a mask whose `sparsity` is meant for this tensor alone."""
        total = prod(shape_of(score))
        count = round(float(options.pop("sparsity")) * total)
        options.pop("scope", None)
        largest = bool(options.get("largest"))
        value, cuts = self.cuts([score], count, largest)
        return params(**options, threshold=value, cut=cuts[0])

    def threshold(self, scores: list[Expr], k: int) -> Threshold:
        """The k-th smallest magnitude over all values of the expressions together."""
        return kth_smallest(
            self._pieces(scores), k, threads=self.threads, sample=self._sample(scores)
        )

    def cuts(
        self, scores: list[Expr], count: int, largest: bool
    ) -> tuple[float, tuple[int | None, ...]]:
        """The threshold and, for each expression, the cut by which exactly `count` values fall.

        Among values equal to the threshold the first in the order of the expressions fall.
        A cut of None means all of them, 0 none.
        """
        total = sum(prod(shape_of(e)) for e in scores)
        if count <= 0:
            return (math.inf if largest else 0.0), (0,) * len(scores)
        if count > total:
            raise PlanError("more weights to zero than there are", expected=total, found=count)
        if largest:  # NaN is never chosen, so the rank is counted without them
            total -= self._nans(scores)
        found = self.threshold(scores, total - count + 1 if largest else count)
        above = total - found.below - found.equal
        quota = count - (above if largest else found.below)
        ties = found.equal_by_tensor
        cuts: list[int | None] = []
        for number, score in enumerate(scores):
            known = ties.get(number, 0) if ties is not None else None
            taken = self._tie_count(score, found.value) if known is None else known
            if quota >= taken:
                cuts.append(None)
            else:
                cuts.append(self._tie_position(score, found.value, quota))
            quota -= min(quota, taken)
        return float(found.value), tuple(cuts)

    def _nans(self, scores: list[Expr]) -> int:
        kernel = backend()

        def step(count: list[int], piece: Piece) -> None:
            with piece.look() as raw:
                good = kernel.count(piece.kind, raw, 0, NAN_KEY[piece.kind])
            count[0] += piece.count - good

        parts = reduce_blocks(self._pieces(scores)(), lambda: [0], step, self.threads)
        return sum(p[0] for p in parts)

    def _tie_count(self, score: Expr, value: np.float32) -> int:
        kernel = backend()
        key = int(value.view(np.uint32))

        def step(count: list[int], piece: Piece) -> None:
            lo, hi = own_key(piece.kind, key), own_key(piece.kind, key + 1)
            with piece.look() as raw:
                count[0] += kernel.count(piece.kind, raw, lo, hi)

        parts = reduce_blocks(self._pieces([score])(), lambda: [0], step, self.threads)
        return sum(p[0] for p in parts)

    def _tie_position(self, score: Expr, value: np.float32, quota: int) -> int:
        """The number of leading elements among which exactly `quota` equal the value."""
        if quota == 0:
            return 0
        position, kernel, key = 0, backend(), int(value.view(np.uint32))
        for piece in self._pieces([score])():
            lo, hi = own_key(piece.kind, key), own_key(piece.kind, key + 1)
            with piece.look() as raw:
                found = kernel.count(piece.kind, raw, lo, hi)
                if found >= quota:
                    return position + _nth_key(piece.kind, raw, lo, quota) + 1
            quota -= found
            position += piece.count
        raise AssertionError("ties were counted before")

    def _pieces(self, scores: list[Expr]) -> Callable[[], Iterable[Piece]]:
        def pieces() -> Iterator[Piece]:
            for number, expr in enumerate(scores):
                kind = common_float(expr)
                width = shape_of(expr)[0]
                for rows in row_blocks(expr):
                    count = (rows[0][1] - rows[0][0]) * width
                    yield Piece(
                        number,
                        F32 if kind is None else kind,
                        count,
                        lambda e=expr, r=rows, k=kind: self._look(e, r, k),  # type: ignore[misc]
                    )

        return pieces

    def _sample(self, scores: list[Expr]) -> list[Sample]:
        """Magnitudes at random places; none where only whole rows could be computed."""
        total = sum(prod(shape_of(e)) for e in scores)
        if total < 8 * PIECES * PIECE or any(common_float(e) is None for e in scores):
            return []
        random = np.random.default_rng(total)

        sample: list[Sample] = []
        for expr in scores:
            assert isinstance(expr, Read)
            tensor = expr.tensor
            nbytes, share = FLOAT_SIZES[tensor.type] * PIECE, tensor.n_elements / total
            pieces = min(math.ceil(share * PIECES), tensor.n_elements // PIECE)
            places = np.sort(random.integers(0, tensor.n_elements // PIECE, pieces))
            raw = self.reader.sample(expr, places * nbytes, nbytes)
            values = np.abs(backend().decode(tensor.type, raw.reshape(-1)))
            sample.append(values.reshape(pieces, PIECE))
        return sample


def _nth_key(kind: int, raw: Raw, key: int, n: int) -> int:
    """The number of the n-th element with this magnitude key, counted from 1."""
    step, size, start = 1 << 16, FLOAT_SIZES[kind], 0
    while True:
        part = raw[start * size : (start + step) * size]
        found = backend().count(kind, part, key, key + 1)
        if found >= n:
            values = np.abs(backend().decode(kind, part)).view(np.uint32)
            exact = values == (key if kind == F32 else key_table(kind)[key])
            return start + int(np.flatnonzero(exact)[n - 1])
        n, start = n - found, start + step


def common_float(*exprs: Expr) -> int | None:
    """The float type of expressions that are plain tensors of one such type."""
    kinds = {e.tensor.type if isinstance(e, Read) else -1 for e in exprs}
    kind = kinds.pop()
    return kind if not kinds and kind in kernels.FLOAT_SIZES else None


def slerp_weights(ab: float, aa: float, bb: float, weight: float) -> tuple[float, float]:
    """The two factors of a slerp from the moments; those of lerp where it is undefined."""
    length = math.sqrt(aa) * math.sqrt(bb)
    cosine = ab / length if length > 0 and math.isfinite(length) else 1.0
    if not abs(cosine) < PARALLEL:  # also where it is not a number
        return 1 - weight, weight
    angle = math.acos(cosine)
    return math.sin((1 - weight) * angle) / math.sin(angle), math.sin(weight * angle) / math.sin(
        angle
    )
