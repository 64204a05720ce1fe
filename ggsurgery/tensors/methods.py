"""The computations of `Apply` and `Combine`, on flat float32 blocks of whole rows.

Each method sees only some rows, so whatever needs the whole tensor (the angle of a slerp,
a threshold) is computed beforehand by `resolve`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PlanError
from .kernels import F32, Values, backend
from .masks import mask_above, mask_pattern, mask_rows
from .shape import Shape


@dataclass(frozen=True, slots=True)
class Place:
    """Which rows of which tensor a block holds; `name` is for messages and random streams."""

    shape: Shape
    rows: tuple[tuple[int, int], ...]
    name: str

    @property
    def first_elements(self) -> tuple[tuple[int, int], ...]:
        """Number of the first element in the tensor, and count, of every run of rows."""
        width = self.shape[0]
        return tuple((a * width, (b - a) * width) for a, b in self.rows)


Options = Mapping[str, Any]

ZERO = np.float32(0)


def apply(method: str, values: Values, options: Options, at: Place) -> Values:
    """One input.

    Raises:
        PlanError: an unknown method.
    """
    match method:
        case "scale":
            return linear([values], [float(options["factor"])])
        case "zero":
            return np.zeros_like(values)
        case "mask" | "mask_rows" | "mask_pattern":
            return _masked(method, values, np.abs(values), options, at)
    raise PlanError(f"unknown method {method!r}", tensor=at.name)


def combine(method: str, inputs: Sequence[Values], options: Options, at: Place) -> Values:
    """Several inputs of the same rows.

    Raises:
        PlanError: an unknown method.
    """
    match method:
        case "linear":
            return linear(inputs, options["weights"])
        case "score":  # Wanda (Sun et al. 2024): |weight| · norm of the input it multiplies
            score: Values = np.abs(inputs[0]) * inputs[1]
            return score
        case "mask" | "mask_rows" | "mask_pattern":
            return _masked(method, inputs[0], inputs[1], options, at)
        case "ties":
            return _ties(inputs, options)
        case "dare":
            return _dare(inputs, options, at)
    raise PlanError(f"unknown method {method!r}", tensor=at.name)


def linear(inputs: Sequence[Values], weights: Sequence[float]) -> Values:
    """Σ weight·input from the left, in float32."""
    raws = [x.view(np.uint8) for x in inputs]
    return backend().linear(F32, raws, weights).view(np.float32)


def by_row(table: Values, at: Place) -> Values:
    """The table's row for each row; the table has one row for all, or one a slab."""
    if table.shape[0] == 1:
        return np.broadcast_to(table, (sum(b - a for a, b in at.rows), table.shape[1]))
    numbers = np.concatenate([np.arange(a, b) for a, b in at.rows])
    per_slab = at.shape[1] if len(at.shape) > 1 else 1
    picked: Values = table[numbers // per_slab]
    return picked


def scaled(values: Values, factors: Values, at: Place) -> Values:
    """Rows times one factor, or the factor of their slab: [1, 1] or [slabs, 1]."""
    with np.errstate(over="ignore", invalid="ignore"):
        product: Values = values.reshape(-1, at.shape[0]) * by_row(factors, at)
    return product.reshape(-1)


def _masked(method: str, values: Values, score: Values, options: Options, at: Place) -> Values:
    largest, width = bool(options.get("largest")), at.shape[0]
    if method == "mask":
        threshold, cut = np.float32(options["threshold"]), options.get("cut")
        return mask_above(values, score, threshold, cut, largest, at.first_elements)
    if method == "mask_rows":
        return mask_rows(values, score, float(options["sparsity"]), width, largest)
    return mask_pattern(values, score, options["n"], options["m"], largest)


def _ties(inputs: Sequence[Values], options: Options) -> Values:
    """TIES (Yadav et al. 2023): trim, elect the sign, mean over those that agree with it.

    `thresholds`: the magnitude from which on each difference is kept, from `resolve`.
    """
    base, weights = inputs[0], [np.float32(w) for w in options["weights"]]
    kept: list[Values] = []
    for model, threshold in zip(inputs[1:], options["thresholds"], strict=True):
        difference: Values = model - base
        kept.append(np.where(np.abs(difference) < np.float32(threshold), ZERO, difference))
    sign = np.sign(linear(kept, [float(w) for w in weights]))
    summed, share = np.zeros_like(base), np.zeros_like(base)
    for weight, difference in zip(weights, kept, strict=True):
        agrees = (np.sign(difference) == sign) & (difference != 0)
        summed += np.where(agrees, weight * difference, ZERO)
        share += agrees.astype(np.float32) * weight
    mean = np.divide(summed, share, out=np.zeros_like(summed), where=share != 0)
    return linear([base, mean], [1.0, float(options["scale"])])


def _dare(inputs: Sequence[Values], options: Options, at: Place) -> Values:
    """DARE (Yu et al. 2024): drop a random part of every difference, scale up the rest.

    The stream of random numbers depends on the seed, the tensor and the position in it,
    not on how the tensor was cut into blocks.
    """
    base, keep = inputs[0], float(options["density"])
    result: Values = base.copy()
    limit = np.uint64(min(int(keep * 2.0**64), 2**64 - 1))
    for number, (model, weight) in enumerate(zip(inputs[1:], options["weights"], strict=True)):
        random = _random(f"{options['seed']}|{at.name}|{number}", at)
        scale = np.float32(float(weight) * float(options["scale"]) / keep)
        result += np.where(random <= limit, scale * (model - base), ZERO)
    return result


def _random(stream: str, at: Place) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """64 random bits for every element of the block."""
    digest = hashlib.sha256(stream.encode()).digest()
    key = np.frombuffer(digest[:16], np.uint64)
    parts = []
    for first, count in at.first_elements:
        generator = np.random.Philox(key=key)
        generator.advance(first // 4)  # one step of its counter yields four numbers
        parts.append(generator.random_raw(count + first % 4)[first % 4 :])
    return np.concatenate(parts)
