"""The score out of 100: its parts, its bootstrap interval, and the paired difference of two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GGSurgeryError
from ...files.fields import FieldError, Fields, finite, list_of, mapping, text
from ..results import statistics
from ..results.comparison import Comparison
from ..results.score import Score
from .repetition import linear


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the score.

    Args:
        name: `facts`, `coherence`, …
        weight: as in the weights file.
        items: per-question or per-window values, in the unit of `bad` and `good`.
        bad, good: means of the items that count as 0 and as 1.
        ids: names of the items.
        note: why the part does not apply, in which case there are no items.
        transcript: questions and answers, for manual checking.
    """

    name: str
    weight: float
    items: tuple[float, ...]
    bad: float = 0.0
    good: float = 1.0
    ids: tuple[str, ...] = ()
    note: str | None = None
    transcript: tuple[Mapping[str, Any], ...] = ()

    @property
    def applies(self) -> bool:
        return bool(self.items)

    @property
    def mean(self) -> float:
        """Mean of the items in their own unit."""
        return float(np.mean(self.items))

    @property
    def value(self) -> float:
        """The part as a figure in [0, 1]."""
        return linear(self.mean, bad=self.bad, good=self.good)

    def draws(self, n: int, seed: int) -> NDArray[np.float64]:
        """Bootstrap draws of the value."""
        means = statistics.resampled_means(self.items, n=n, seed=seed)
        return np.clip((means - self.bad) / (self.good - self.bad), 0.0, 1.0)

    @property
    def interval(self) -> statistics.Interval:
        """95 % interval of the value: Wilson's of right and wrong answers, else a bootstrap's.

        Items that are all alike, or all beyond `bad` or `good`, give a bootstrap nothing to
        resample: then Wilson's too, which is on the safe side for any values in [0, 1].
        """
        drawn = statistics.interval_of(self.draws(statistics.RESAMPLES, 0))
        if set(self.items) <= {0.0, 1.0} or not drawn.low < drawn.high:
            return statistics.wilson_of_share(self.value, len(self.items))
        return drawn

    def to_json(self) -> dict[str, Any]:
        interval = self.interval.to_json() if self.applies else None
        return {
            "name": self.name,
            "weight": self.weight,
            "value": self.value if self.applies else None,
            "mean": self.mean if self.applies else None,
            "n": len(self.items),
            "interval": interval,
            "bad": self.bad,
            "good": self.good,
            "note": self.note,
            "items": list(self.items),
            "ids": list(self.ids),
            "transcript": [dict(t) for t in self.transcript],
        }

    @classmethod
    def from_json(cls, data: Any) -> Part:
        """The inverse of `to_json`.

        Raises:
            FieldError: a field is missing or of the wrong type.
        """
        fields = Fields(data)
        found = cls(
            name=fields.get("name", text),
            weight=fields.get("weight", finite),
            items=fields.get("items", list_of(finite)),
            bad=fields.get("bad", finite),
            good=fields.get("good", finite),
            ids=fields.get_or("ids", list_of(text), ()),
            note=fields.get_or("note", text, None),
            transcript=fields.get_or("transcript", list_of(_said), ()),
        )
        if found.weight < 0:
            raise FieldError("at least 0", f"{found.weight:g}", "weight")
        if found.ids and len(found.ids) != len(found.items):
            raise FieldError(f"{len(found.items)} texts", f"{len(found.ids)}", "ids")
        if found.bad == found.good:
            raise FieldError("another figure than bad", f"{found.good:g}", "good")
        return found


def _said(data: Any) -> Mapping[str, Any]:
    """The questions and answers."""
    fields = Fields(data)
    for key in {"asked", "said"} & set(fields.data):
        fields.get(key, text)
    return fields.data


@dataclass(frozen=True, slots=True)
class SurgeryScore:
    """The suite's result for one model."""

    parts: tuple[Part, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def applicable(self) -> tuple[Part, ...]:
        return tuple(p for p in self.parts if p.applies and p.weight > 0)

    @property
    def total(self) -> float:
        """100 · Σ weight·value / Σ weight over the parts that apply."""
        parts = self.applicable
        weight = sum(p.weight for p in parts)
        return 100.0 * sum(p.weight * p.value for p in parts) / weight

    @property
    def value(self) -> float:
        """The total, as the figure of a `Score` is named."""
        return self.total

    @property
    def n(self) -> int:
        """Items of all parts that count."""
        return sum(len(p.items) for p in self.applicable)

    def draws(self, n: int = statistics.RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
        """Bootstrap draws of the total, the items of each part resampled by themselves.

        Two models with the same questions and the same seed draw the same questions, so
        the difference of their draws is a paired bootstrap.
        """
        weight = sum(p.weight for p in self.applicable)
        total = np.zeros(n)
        for place, part in enumerate(self.parts):
            if part.applies and part.weight > 0:
                total += part.weight * part.draws(n, seed + place)
        return 100.0 * total / weight

    @property
    def interval(self) -> statistics.Interval:
        """95 % interval of the total, from those of its parts (MOVER, Zou and Donner 2008).

        Each end is the total and the root of the summed squares of what the parts' ends add.
        """
        weight = sum(p.weight for p in self.applicable)
        down = up = 0.0
        for part in self.applicable:
            share, ends = 100.0 * part.weight / weight, part.interval
            down += (share * (part.value - ends.low)) ** 2
            up += (share * (ends.high - part.value)) ** 2
        return statistics.Interval(
            max(0.0, self.total - math.sqrt(down)), min(100.0, self.total + math.sqrt(up))
        )

    def part(self, name: str) -> Part:
        return next(p for p in self.parts if p.name == name)

    def scores(self) -> list[Score]:
        """The total (`surgery`, stderr from the bootstrap) and each part (`surgery_facts` …).

        Parts come as figures in [0, 1], more is better; compare two suites with
        `compare_surgery`, which pairs their items.
        """
        spread = _spread(self.draws(), self.interval)
        found = [Score("surgery", self.total, spread, self.n, self.provenance)]
        for part in self.applicable:
            spread = _spread(part.draws(statistics.RESAMPLES, 0), part.interval)
            name, n = f"surgery_{part.name}", len(part.items)
            found.append(Score(name, part.value, spread, n, self.provenance))
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "n": self.n,
            "interval": self.interval.to_json(),
            "parts": [p.to_json() for p in self.parts],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Any) -> SurgeryScore:
        """The inverse of `to_json`.

        Raises:
            FieldError: a field is missing or of the wrong type, or no part counts.
        """
        fields = Fields(data)
        found = cls(
            fields.get("parts", list_of(Part.from_json)), fields.get_or("provenance", mapping, {})
        )
        if not found.applicable:
            raise FieldError("a part with items and a weight", "none", "parts")
        return found


def _spread(draws: NDArray[np.float64], interval: statistics.Interval) -> float:
    """Standard error by the bootstrap; by the interval where there was nothing to resample."""
    spread = float(draws.std())
    return spread if spread > 0 else (interval.high - interval.low) / (2 * statistics.Z_95)


def compare_surgery(base: SurgeryScore, other: SurgeryScore) -> list[Comparison]:
    """The total, then each part that applies to both, other against base.

    The total goes through a paired bootstrap over the items of all parts; right/wrong parts
    through McNemar's exact test; the others through a paired bootstrap.

    Raises:
        GGSurgeryError: the two runs asked different questions or have different parts.
    """
    names = [[p.name for p in one.parts] for one in (base, other)]
    if names[0] != names[1]:
        raise GGSurgeryError(
            "suite: the two scores have other parts",
            expected=", ".join(names[0]),
            found=", ".join(names[1]),
            hint="Run both with the same version and weights.",
        )
    for ours, theirs in zip(base.parts, other.parts, strict=True):
        if (ours.name, ours.applies, ours.weight) != (theirs.name, theirs.applies, theirs.weight):
            raise GGSurgeryError(
                f"suite: part {ours.name} does not apply to both models alike",
                expected=_state(ours),
                found=_state(theirs),
                hint="Scores over different parts cannot be compared; compare the parts one by one",
            )
        if len(ours.items) != len(theirs.items) or ours.ids != theirs.ids:
            raise GGSurgeryError(
                f"suite: part {ours.name} was measured on other items",
                expected=f"{len(ours.items)} items",
                found=f"{len(theirs.items)} items",
                hint="Run both with the same --length and --limit",
            )
    draws = other.draws() - base.draws()
    parts = [_compare_part(a, b) for a, b in zip(base.parts, other.parts, strict=True) if a.applies]
    found = [
        Comparison(
            "surgery",
            base.total,
            other.total,
            other.total - base.total,
            _total_interval(base, other, draws, parts),
            statistics.two_sided(draws, sum(map(_n_unlike, base.applicable, other.applicable))),
            "paired bootstrap",
            base.n,
            "higher",
        )
    ]
    return found + parts


def _total_interval(
    base: SurgeryScore, other: SurgeryScore, draws: NDArray[np.float64], parts: list[Comparison]
) -> statistics.Interval:
    """The bootstrap's; from the parts' intervals (MOVER) where all items are answered alike."""
    drawn = statistics.interval_of(draws)
    if drawn.low < drawn.high:
        return drawn
    weight = sum(p.weight for p in base.applicable)
    shares = {f"surgery_{p.name}": 100.0 * p.weight / weight for p in base.applicable}
    middle, down, up = other.total - base.total, 0.0, 0.0
    for part in parts:
        if part.interval is not None and part.label in shares:
            share = shares[part.label]
            down += (share * (part.difference - part.interval.low)) ** 2
            up += (share * (part.interval.high - part.difference)) ** 2
    return statistics.Interval(middle - math.sqrt(down), middle + math.sqrt(up))


def _compare_part(base: Part, other: Part) -> Comparison:
    n = statistics.RESAMPLES
    draws = other.draws(n, 0) - base.draws(n, 0)
    p_value, test = statistics.two_sided(draws, _n_unlike(base, other)), "paired bootstrap"
    interval = statistics.interval_of(draws)
    if _right_or_wrong(base, other):
        p_value, test = statistics.mcnemar(base.items, other.items), "McNemar (exact)"
        interval = statistics.paired_shares_interval(base.items, other.items)
    return Comparison(
        f"surgery_{base.name}",
        base.value,
        other.value,
        other.value - base.value,
        interval,
        p_value,
        test,
        len(base.items),
        "higher",
    )


def _right_or_wrong(base: Part, other: Part) -> bool:
    plain = (base.bad, base.good) == (other.bad, other.good) == (0.0, 1.0)
    return plain and set(base.items) | set(other.items) <= {0.0, 1.0}


def _n_unlike(base: Part, other: Part) -> int:
    return sum(a != b for a, b in zip(base.items, other.items, strict=True))


def _state(part: Part) -> str:
    return f"{len(part.items)} items, weight {part.weight:g}" if part.applies else "not applicable"
