"""Two scores of the same units: how far apart, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import GGSurgeryError
from ...files.fields import FINITE
from ..registry import Direction
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
        p_value: of the test named in `test`.
        test: `McNemar (exact)`, `paired bootstrap`, `Fisher (exact), unpaired`, or
            `normal, unpaired`.
        n: units compared.
        direction: which values are better, None if that is not known.
    """

    label: str
    base: float
    other: float
    difference: float
    interval: statistics.Interval | None
    p_value: float
    test: str
    n: int
    direction: Direction | None

    @property
    def distinguishable(self) -> bool:
        return self.p_value < ALPHA

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
        """`better`, `worse`, or why neither can be said."""
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


def compare(base: Score, other: Score, *, seed: int = 0) -> Comparison:
    """Compare two scores of one metric, paired by unit where both carry their items.

    Right/wrong items (all 0 or 1) go through McNemar's exact test, any other items through
    a paired bootstrap. Perplexities are compared on their per-unit negative
    log-likelihoods, which is where they are means; `difference` stays in perplexity.
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
    interval, p_value = statistics.paired_bootstrap(a, b, seed=seed)
    test = "paired bootstrap"
    if set(a) | set(b) <= {0.0, 1.0}:
        p_value, test = statistics.mcnemar(a, b), "McNemar (exact)"
        interval = statistics.paired_shares_interval(a, b)
    if base.metric == "perplexity":  # items are nats: d(ppl) ≈ base · (exp(d nats) − 1)
        interval = statistics.Interval(
            base.value * math.expm1(interval.low), base.value * math.expm1(interval.high)
        )
    return Comparison(**shared, interval=interval, p_value=p_value, test=test, n=len(a))


def _computable(metric: str, items: Sequence[float]) -> bool:
    """Whether a bootstrap of the items is a number; nats go through an exponential."""
    bound = 500.0 if metric == "perplexity" else FINITE
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


def _unpaired(base: Score, other: Score) -> tuple[float, str]:
    """Two-sided p of independent errors, and its test; 1 where an error is unknown."""
    test = "normal, unpaired"
    if base.stderr is None or other.stderr is None:
        return 1.0, test
    if base.is_share and other.is_share:
        a, b = (round(s.value * s.n) for s in (base, other))
        if min(a, base.n - a, b, other.n - b) < MIN_COUNT:
            p_value = statistics.fisher_exact(a, base.n, b, other.n)
            return p_value, "Fisher (exact), unpaired"
    spread = math.hypot(base.stderr, other.stderr)
    if spread == 0:
        return 1.0 if base.value == other.value else 0.0, test
    return math.erfc(abs(other.value - base.value) / spread / math.sqrt(2)), test
