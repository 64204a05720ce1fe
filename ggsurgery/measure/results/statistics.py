"""When a difference is a difference: intervals, paired tests, corrections for many tries.

All resampling is seeded; the same items give the same interval on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import GGSurgeryError
from ...files.fields import Fields, number

Floats = npt.NDArray[np.float64]

#: Resamples of a bootstrap: the ends of a 95 % interval then move by about 1 % of its width.
RESAMPLES = 10_000
#: Standard errors on either side of a normal 95 % interval.
Z_95 = 1.959963984540054
_CHUNK = 4_000_000  # indices drawn at once: bounds the memory to about 64 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        return f"[{self.low:.4f}, {self.high:.4f}]"

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @classmethod
    def from_json(cls, data: Any) -> Interval:
        """The inverse of `to_json`.

        Raises:
            FieldError: a field is missing or of the wrong type.
        """
        fields = Fields(data)
        return cls(*(fields.get(k, number) for k in ("low", "high", "level")))

    def to_json(self) -> dict[str, float]:
        return {"low": self.low, "high": self.high, "level": self.level}


def resampled_means(
    items: Sequence[float] | Floats, *, n: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Means of `n` resamples with replacement, float64 [n].

    Example:
        >>> resampled_means([1.0, 1.0], n=3).tolist()
        [1.0, 1.0, 1.0]
    """
    values = np.asarray(items, dtype=np.float64)
    if values.size == 0:
        raise GGSurgeryError("no items to resample", hint="Evaluate at least one question")
    rng = np.random.default_rng(seed)
    out = np.empty(n)
    rows = max(1, _CHUNK // values.size)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        picks = rng.integers(0, values.size, size=(stop - start, values.size))
        out[start:stop] = values[picks].mean(axis=1)
    return out


def interval_of(draws: Floats, level: float = 0.95) -> Interval:
    """The percentile interval of bootstrap draws (Efron 1979)."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(float(low), float(high), level)


def wilson_interval(correct: int, n: int) -> Interval:
    """The Wilson (1927) score interval of a proportion: right at 0/n and n/n too.

    Example:
        >>> str(wilson_interval(17, 17))
        '[0.8157, 1.0000]'
    """
    if not 0 <= correct <= n or n == 0:
        raise GGSurgeryError(
            "not a proportion", expected="0 ≤ correct ≤ n, n ≥ 1", found=(correct, n)
        )
    return wilson_of_share(correct / n, n)


def wilson_of_share(p: float, n: int) -> Interval:
    """The same of a mean `p` of n values between 0 and 1.

    No such values spread more than right and wrong answers with that mean do, so of values in
    between the interval is on the safe side.
    """
    z = Z_95
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # at p = 0 and p = 1 one end is the share itself, which rounding must not pass
    return Interval(min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), 0.95)


def fisher_exact(right_a: int, n_a: int, right_b: int, n_b: int) -> float:
    """Two-sided p of Fisher's exact test on two shares of different questions.

    The probability of all tables with these margins that are no likelier than this one.

    Example:
        >>> round(fisher_exact(3, 3, 0, 3), 4)
        0.1
    """
    right, n = right_a + right_b, n_a + n_b

    def log_choose(m: int, k: int) -> float:
        return math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1)

    whole = log_choose(n, right)
    ways = range(max(0, right - n_b), min(right, n_a) + 1)
    logs = {k: log_choose(n_a, k) + log_choose(n_b, right - k) - whole for k in ways}
    bound = logs[right_a] + 1e-7
    return min(1.0, math.fsum(math.exp(v) for v in logs.values() if v <= bound))


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of McNemar's exact test on paired right/wrong answers.

    Only the questions that one model alone answers count; under the null hypothesis
    each of them is a fair coin (McNemar 1947; exact binomial form).

    Example:
        >>> mcnemar([1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0])
        0.03125
    """
    left, right = _paired(a, b)
    only_a = int(np.sum((left > 0.5) & (right <= 0.5)))
    only_b = int(np.sum((right > 0.5) & (left <= 0.5)))
    return binomial_two_sided(min(only_a, only_b), only_a + only_b)


def binomial_two_sided(k: int, n: int) -> float:
    """P of a result at least as uneven as `k` of `n` tosses of a fair coin, k ≤ n/2."""
    if n == 0:
        return 1.0
    tail = term = 1  # Σ C(n, i) in whole numbers: exact at any n
    for i in range(1, k + 1):
        term = term * (n - i + 1) // i
        tail += term
    return min(1.0, float(2 * tail / 2**n))


def paired_shares_interval(a: Sequence[float], b: Sequence[float]) -> Interval:
    """95 % interval of mean(b − a), both right/wrong on the same questions.

    Wald's with one question more on either side (Bonett and Price 2012), so that its width is
    not 0 where both answered alike.

    Example:
        >>> str(paired_shares_interval([1, 1, 1], [1, 1, 1]))
        '[-0.5544, 0.5544]'
    """
    left, right = _paired(a, b)
    n = len(left)
    gained = (int(np.sum((right > 0.5) & (left <= 0.5))) + 1) / (n + 2)
    lost = (int(np.sum((left > 0.5) & (right <= 0.5))) + 1) / (n + 2)
    middle = gained - lost
    half = Z_95 * math.sqrt((gained + lost - middle**2) / (n + 2))
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True, slots=True)
class Paired:
    """Whether the mean of paired differences is more than chance.

    Args:
        interval: 95 %, of the mean difference.
        p_value: two-sided.
        test: its name.
    """

    interval: Interval
    p_value: float
    test: str


def paired_test(a: Sequence[float], b: Sequence[float]) -> Paired | None:
    """The one rule for b − a over the same units: McNemar's test, or Student's.

    McNemar's exact test of right and wrong answers; of other values the paired t test with
    n − 1 degrees of freedom (Student 1908), which eight windows need: their mean difference is
    beyond two standard errors by chance in 9 % of all cases, not 5 %. Units that all differ by
    the same are as sure as coins that all fall alike.

    Returns:
        None if the test is undefined: a single value, or values that are not numbers.

    Example:
        >>> found = paired_test([2.0, 2.1, 2.2, 2.3], [2.1, 2.2, 2.4, 2.4])
        >>> found.test, round(found.p_value, 4)
        ('paired t', 0.0154)
    """
    left, right = _paired(a, b)
    if set(left) | set(right) <= {0.0, 1.0}:
        return Paired(paired_shares_interval(a, b), mcnemar(a, b), "McNemar (exact)")
    with np.errstate(invalid="ignore", over="ignore"):
        differences = right - left
        mean, spread = float(differences.mean()), 0.0
        if differences.size > 1:
            spread = float(differences.std(ddof=1)) / math.sqrt(differences.size)
    if differences.size < 2 or not math.isfinite(mean) or not math.isfinite(spread):
        return None
    degrees = differences.size - 1
    if spread == 0.0:
        p_value = 2.0**-degrees if mean else 1.0
        return Paired(Interval(mean, mean), p_value, "paired t")
    half = t_quantile(degrees) * spread
    p_value = t_two_sided(mean / spread, degrees)
    return Paired(Interval(mean - half, mean + half), p_value, "paired t")


def t_two_sided(t: float, degrees: int) -> float:
    """P(|T| ≥ |t|) of Student's t, by the finite series in the angle whose tangent is t/√ν.

    Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.

    Example:
        >>> round(t_two_sided(2.3646, 7), 4)
        0.05
    """
    angle = math.atan2(abs(t), math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(1, (degrees - odd) // 2):
        term *= square * ((2 * k) / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
        total += term
    if degrees == 1:
        total = 0.0
    inside = math.sin(angle) * total
    if odd:
        inside = 2.0 / math.pi * (angle + inside)
    return max(0.0, 1.0 - inside)


@cache
def t_quantile(degrees: int, level: float = 0.95) -> float:
    """The |t| that Student's t exceeds with probability 1 − level.

    Example:
        >>> round(t_quantile(7), 4)
        2.3646
    """
    low, high = 0.0, 1.0
    while t_two_sided(high, degrees) > 1.0 - level:
        low, high = high, 2.0 * high
    while (middle := (low + high) / 2.0) not in (low, high):
        if t_two_sided(middle, degrees) > 1.0 - level:
            low = middle
        else:
            high = middle
    return high


def two_sided(draws: Floats, n_unlike: int) -> float:
    """P of a difference whose bootstrap draws these are, over `n_unlike` units that differ.

    Twice the smaller share of draws on one side of zero (with the usual +1, so that it is
    never 0), but not below what a sign test gives when all `n_unlike` agree: three units
    resampled never change their sign, and yet three tosses of a coin prove nothing.

    Example:
        >>> two_sided(np.ones(10_000), 3)
        0.25
    """
    below = (np.count_nonzero(draws <= 0) + 1) / (len(draws) + 1)
    above = (np.count_nonzero(draws >= 0) + 1) / (len(draws) + 1)
    return float(min(1.0, max(2 * min(below, above), 2.0 ** (1 - n_unlike))))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for having tried several (Holm 1979), in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = highest
    return corrected


def _paired(a: Sequence[float], b: Sequence[float]) -> tuple[Floats, Floats]:
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or left.size == 0:
        raise GGSurgeryError(
            "a paired test needs the same units on both sides",
            expected=f"{left.size} items",
            found=f"{right.size} items",
            hint="Evaluate both models on the same data with the same limit",
        )
    return left, right
