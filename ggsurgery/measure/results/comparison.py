"""Two scores of the same units: how far apart, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import GGSurgeryError
from ...files.fields import FINITE
from ..registry import Direction, metric_of
from . import statistics
from .score import Score

#: A difference is called one below this probability of chance.
ALPHA = 0.05
#: Fewer right or wrong answers than this are not normally distributed.
MIN_COUNT = 10


@dataclass(frozen=True, slots=True)
class Comparison:
    """`other` against `base` on the same units.

    Args:
        label: task and metric.
        base, other: the two values, over the units that both have.
        difference: other − base, in the metric's unit.
        interval: 95 % interval of the difference (None: no per-unit values).
        p_value: of the test named in `test`; None where an error that it needs is unknown.
        test: `McNemar (exact)`, `paired t`, `paired bootstrap` (of the suite, whose total is
            no mean), `Fisher (exact), unpaired`, `normal, unpaired`, or `none`.
        n: units compared.
        direction: which values are better, None if that is not known.
    """

    label: str
    base: float
    other: float
    difference: float
    interval: statistics.Interval | None
    p_value: float | None
    test: str
    n: int
    direction: Direction | None

    @property
    def distinguishable(self) -> bool:
        return self.p_value is not None and self.p_value < ALPHA

    @property
    def better(self) -> bool:
        """Whether `other` is distinguishably better than `base`."""
        return self._differs_towards(self.direction)

    @property
    def worse(self) -> bool:
        return self._differs_towards(
            {"lower": "higher", "higher": "lower"}.get(str(self.direction))
        )

    def _differs_towards(self, direction: str | None) -> bool:
        lower = self.difference < 0
        return self.distinguishable and direction == ("lower" if lower else "higher")

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or why neither is shown."""
        if self.p_value is None:
            return "not tested: a result has no standard error"
        if not self.distinguishable:
            return f"not distinguishable at n = {self.n}"
        if self.direction is None:
            return "different; which is better is not known"
        return "better" if self.better else "worse"

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "base": self.base,
            "other": self.other,
            "difference": self.difference,
            "interval": None if self.interval is None else self.interval.to_json(),
            "p_value": self.p_value,
            "test": self.test,
            "n": self.n,
            "direction": self.direction,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two figures, paired item by item.

    Args:
        value: the mean of the items' differences: in the metric's own unit, of a logarithmic
            metric the difference of logarithms, so that windows weigh alike.
        stderr: its standard error; None without paired items.
        p_value, interval, test: of `statistics.paired_test`; None if the test is undefined.
        n: pairs.
    """

    value: float
    stderr: float | None
    p_value: float | None = None
    interval: statistics.Interval | None = None
    test: str | None = None
    n: int = 0

    def __neg__(self) -> Difference:
        """The same, seen from the other side."""
        ends = self.interval
        turned = None if ends is None else statistics.Interval(-ends.high, -ends.low, ends.level)
        return replace(self, value=-self.value, interval=turned)


def paired(other: Score, base: Score) -> Difference:
    """`other` − `base`, item by item where both have the same items."""
    n = len(other.items)
    if n == 0 or n != len(base.items):
        return Difference(other.value - base.value, None)
    differences = np.subtract(other.items, base.items)
    stderr = float(differences.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    mean, tested = float(differences.mean()), statistics.paired_test(base.items, other.items)
    if tested is None:
        return Difference(mean, stderr, n=n)
    return Difference(mean, stderr, tested.p_value, tested.interval, tested.test, n)


def corrected(differences: Sequence[Difference | None]) -> list[float | None]:
    """The p values with Holm's correction for the number of candidates; None where there is
    none."""
    known = [d.p_value for d in differences if d is not None and d.p_value is not None]
    rest = iter(statistics.holm(known))
    return [None if d is None or d.p_value is None else next(rest) for d in differences]


@dataclass(frozen=True, slots=True)
class Cost:
    """The difference of one of several candidates from the uncut model.

    Args:
        p_corrected: its p with Holm's correction for all `n_candidates` that were measured.
    """

    difference: Difference
    p_corrected: float | None
    n_candidates: int

    @classmethod
    def of(cls, chosen: Difference, candidates: Sequence[Difference]) -> Cost:
        """`chosen` is one of the candidates."""
        p_values = corrected(candidates)
        return cls(chosen, p_values[candidates.index(chosen)], len(candidates))

    def to_json(self) -> dict[str, Any]:
        ends = self.difference.interval
        return {
            "difference": self.difference.value,
            "stderr": self.difference.stderr,
            "interval": None if ends is None else ends.to_json(),
            "p": self.difference.p_value,
            "p_corrected": self.p_corrected,
            "test": self.difference.test,
            "n": self.difference.n,
            "candidates": self.n_candidates,
        }


def compare(base: Score, other: Score) -> Comparison:
    """Compare two scores of one metric, paired by unit where both carry their items.

    Items go through `statistics.paired_test`. Perplexities are compared on their per-unit
    negative log-likelihoods, which is where they are means; `difference` stays in perplexity.
    Without items on both sides, a normal approximation of independent errors, and Fisher's
    exact test of shares with so few right or wrong answers that it does not hold.

    Raises:
        GGSurgeryError: different metrics, settings or units.
    """
    if base.label != other.label:
        raise GGSurgeryError(
            "two metrics cannot be compared", expected=base.label, found=other.label
        )
    if None not in (base.direction, other.direction) and base.direction != other.direction:
        raise GGSurgeryError(
            f"{base.label}: the two results disagree about which values are better",
            expected=base.direction,
            found=other.direction,
        )
    if unlike := base.unlike(other):
        raise GGSurgeryError(
            f"{base.label}: the two runs differ in {unlike}",
            hint="Measure both on the same data with the same settings",
        )
    a, b = align(base, other)
    if not (_computable(base.metric, a) and _computable(base.metric, b)):
        a, b = (), ()
    values = base.value, other.value
    if base.ids and a and len(a) < max(len(base.items), len(other.items)):
        values = math.fsum(a) / len(a), math.fsum(b) / len(b)  # of the shared questions
    shared: dict[str, Any] = {
        "label": base.label,
        "base": values[0],
        "other": values[1],
        "difference": values[1] - values[0],
        "direction": base.direction or other.direction,
    }
    if not a:
        p_value, test = _unpaired(base, other)
        return Comparison(
            **shared, interval=None, p_value=p_value, test=test, n=min(base.n, other.n)
        )
    tested = statistics.paired_test(a, b)
    if tested is None:  # a single unit
        return Comparison(**shared, interval=None, p_value=1.0, test="paired t", n=len(a))
    interval = tested.interval
    if is_logarithmic(base.metric):  # items are nats: d(ppl) ≈ base · (exp(d nats) − 1)
        low, high = (base.value * math.expm1(min(v, 700.0)) for v in (interval.low, interval.high))
        interval = statistics.Interval(low, high)
    return Comparison(
        **shared, interval=interval, p_value=tested.p_value, test=tested.test, n=len(a)
    )


def is_logarithmic(metric: str) -> bool:
    """Whether the items of a metric are logarithms."""
    row = metric_of(metric)
    return row is not None and row.logarithmic


def _computable(metric: str, items: Sequence[float]) -> bool:
    """Whether a test of the items is a number; nats go through an exponential."""
    bound = 500.0 if is_logarithmic(metric) else FINITE
    return all(abs(v) < bound for v in items)


def align(base: Score, other: Score) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Items of the units that both scores hold, in the order of `base`; empty if one has none.

    Raises:
        GGSurgeryError: both have items but no unit in common.
    """
    if not base.items or not other.items:
        return (), ()
    if not base.ids or not other.ids:
        if len(base.items) != len(other.items):
            raise GGSurgeryError(
                f"{base.label}: the two runs scored different numbers of units",
                expected=len(base.items),
                found=len(other.items),
                hint="Run both with the same data and the same --limit",
            )
        return base.items, other.items
    place = {name: i for i, name in enumerate(other.ids)}
    pairs = [(i, place[name]) for i, name in enumerate(base.ids) if name in place]
    if not pairs:
        raise GGSurgeryError(
            f"{base.label}: the two runs have no question in common",
            expected=f"ids such as {base.ids[0]}",
            found=other.ids[0],
        )
    return tuple(base.items[i] for i, _ in pairs), tuple(other.items[j] for _, j in pairs)


def compare_all(base: Sequence[Score], other: Sequence[Score]) -> list[Comparison]:
    """Compare every metric that both lists hold, in the order of `base`."""
    theirs = {score.label: score for score in other}
    return [compare(score, theirs[score.label]) for score in base if score.label in theirs]


def _unpaired(base: Score, other: Score) -> tuple[float | None, str]:
    """Two-sided p of independent errors, and its test; None where an error is unknown."""
    test = "normal, unpaired"
    if base.stderr is None or other.stderr is None:
        return None, "none"
    if base.is_share and other.is_share:
        a, b = (round(s.value * s.n) for s in (base, other))
        if min(a, base.n - a, b, other.n - b) < MIN_COUNT:
            p_value = statistics.fisher_exact(a, base.n, b, other.n)
            return p_value, "Fisher (exact), unpaired"
    spread = math.hypot(base.stderr, other.stderr)
    if spread == 0:
        return 1.0 if base.value == other.value else 0.0, test
    return math.erfc(abs(other.value - base.value) / spread / math.sqrt(2)), test
