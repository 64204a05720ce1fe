"""One figure with everything needed to believe it: its error, its n, and where it came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import GGSurgeryError
from ...files.fields import FieldError, Fields, list_of, number, text, whole
from ..registry import Direction, as_direction, direction_of, metric_of
from . import statistics
from .facts import model_facts, read_facts

_SPEED = ("machine", "n_threads", "n_prompt", "n_generated")
#: Settings of a measurement that figures must share to be compared, and those that count as
#: off if not stated.
_SETTINGS = ("text", "n_tokens", "n_ctx", "add_bos", "base", "top_k", "style", "shots", *_SPEED)
_FLAGS = ("chat", "lower_bound", "parse_special")


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one model.

    Args:
        metric: the field's name of it: `perplexity`, `acc_norm`, `kl_mean`, `surgery` …
        value: in the metric's own unit; accuracies are fractions in [0, 1].
        stderr: one standard error in the same unit, None where none is defined.
        n: how many scored units (questions, tokens, positions) the value is a mean over.
        provenance: file, its size, settings and versions; see `provenance`.
        items: the per-unit values behind a mean, in file order, for paired comparisons.
        ids: names of the units, as many as `items`, or empty.
        direction: which values are better; taken from `metrics` if the result does not state it,
            and None where `metrics` does not know it either.

    Example:
        >>> str(Score("acc", 0.25, 0.0433, 100))
        'acc 0.2500 ± 0.0433 (n = 100)'
    """

    metric: str
    value: float
    stderr: float | None
    n: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[float, ...] = ()
    ids: tuple[str, ...] = ()
    direction: Direction | None = None

    def __post_init__(self) -> None:
        if self.direction is None:
            object.__setattr__(self, "direction", direction_of(self.metric))

    @property
    def task(self) -> str | None:
        """The name of the data or task, if there is one."""
        task = self.provenance.get("task")
        return None if task is None else str(task)

    @property
    def label(self) -> str:
        """`hellaswag acc_norm`, or the bare metric."""
        return self.metric if self.task is None else f"{self.task} {self.metric}"

    @property
    def lower_is_better(self) -> bool:
        return self.direction == "lower"

    @property
    def interval(self) -> statistics.Interval | None:
        """95 %: Wilson's of a share of right answers, else 1.96 standard errors; or None."""
        if self.is_share:
            return statistics.wilson_of_share(self.value, self.n)
        if self.stderr is None or not math.isfinite(self.value):
            return None
        half = statistics.Z_95 * self.stderr
        return statistics.Interval(self.value - half, self.value + half)

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction of n right answers."""
        row = metric_of(self.metric)
        share = row is not None and row.unit == "share"
        return share and self.n > 0 and 0.0 <= self.value <= 1.0

    def unlike(self, other: Score, *, same_n: bool = False) -> str | None:
        """The first setting that differs, so that the two figures answer different questions.

        Settings that one of them does not state count as equal. `same_n`: n is one of them; not
        so where only what both have is compared.

        Example:
            >>> a, b = (Score("perplexity", 9.0, None, 9, {"n_ctx": n}) for n in (512, 128))
            >>> a.unlike(b)
            'n_ctx: 512 and 128'
        """
        for key in (*_SETTINGS, *_FLAGS):
            ours, theirs = (_setting(s.provenance, key) for s in (self, other))
            if ours != theirs and (key in _FLAGS or None not in (ours, theirs)):
                return f"{key}: {ours} and {theirs}"
        if same_n and self.n != other.n and 0 not in (self.n, other.n):
            return f"n: {self.n} and {other.n}"
        return None

    def __str__(self) -> str:
        error = "" if self.stderr is None else f" ± {self.stderr:.4f}"
        return f"{self.metric} {self.value:.4f}{error} (n = {self.n})"

    def to_json(self, *, items: bool = True) -> dict[str, Any]:
        """A JSON object; not-a-number and infinities become their names, as JSON has none."""
        result: dict[str, Any] = {
            "metric": self.metric,
            "value": _plain(self.value),
            "stderr": _plain(self.stderr),
            "n": self.n,
            "direction": self.direction,
            "provenance": dict(self.provenance),
        }
        if items and self.items:
            result["items"] = [_plain(v) for v in self.items]
            if self.ids:
                result["ids"] = list(self.ids)
        return result

    @classmethod
    def from_json(cls, data: Any) -> Score:
        """The inverse of `to_json`.

        Raises:
            FieldError: a field is missing or of the wrong type.
        """
        fields = Fields(data)
        found = cls(
            metric=fields.get("metric", text),
            value=fields.get("value", number),
            stderr=fields.get_or("stderr", number, None),
            n=fields.get("n", whole),
            provenance=fields.get_or("provenance", _provenance, {}),
            items=fields.get_or("items", list_of(number), ()),
            ids=fields.get_or("ids", list_of(text), ()),
            direction=fields.get_or("direction", as_direction, None),
        )
        if found.ids and len(found.ids) != len(found.items):
            raise FieldError(f"{len(found.items)} texts", f"{len(found.ids)}", "ids")
        return found


def _provenance(data: Any) -> Mapping[str, Any]:
    """Free but for what is computed with or printed."""
    fields = Fields(data)
    read_facts(data)
    for key in ("file", "task"):
        fields.get_or(key, text, None)
    fields.get_or("chance", number, None)
    return fields.data


def mean_score(
    metric: str,
    items: Iterable[float],
    provenance: Mapping[str, Any] | None = None,
    ids: Iterable[str] = (),
) -> Score:
    """The mean of per-unit values with its standard error s/√n (s with n − 1, as lm-eval does).

    Example:
        >>> mean_score("acc", [1, 0, 1, 1]).value
        0.75
    """
    values = tuple(float(v) for v in items)
    n = len(values)
    if n == 0:
        return Score(metric, math.nan, None, 0, provenance or {})
    mean = math.fsum(values) / n
    stderr = None
    if n > 1:
        stderr = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Score(metric, mean, stderr, n, provenance or {}, values, tuple(ids))


#: The entries of a provenance about the file itself.
FACTS = ("bytes", "layers", "parameters", "quantization", "checksum")


def provenance(file: str | Path, **settings: Any) -> dict[str, Any]:
    """Where a figure came from: the file and what it is, the settings, the versions.

    Settings that are None are left out.
    """
    path = Path(file)
    file_facts: dict[str, Any] = {"bytes": path.stat().st_size if path.exists() else None}
    with suppress(GGSurgeryError, OSError):  # a name without a file, in tests and old results
        facts = asdict(model_facts(path))
        file_facts = {k: facts[k] for k in FACTS}
    return {
        "file": str(file),
        **file_facts,
        **{k: v for k, v in settings.items() if v is not None},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of this package and of those that a figure depends on."""
    found = {"ggsurgery": __version__}
    for package in ("llama-cpp-python", "gguf", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _setting(settings: Mapping[str, Any], key: str) -> Any:
    value = settings.get(key)
    if key in _FLAGS:
        return bool(value)
    return Path(str(value)).name if key == "base" and value is not None else value


def _plain(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return str(float(value))
