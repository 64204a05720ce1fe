"""Every metric: its label, its unit, which direction is better, and who measures it.

A new metric is one row here and one class in `measure.metrics` (see `measure.meter`). A figure that
occurs only in other programs' results, or that is one of several of a measurement, is a row without
a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import GGSurgeryError
from ..files.fields import FieldError, kind_of

Direction = Literal["lower", "higher"]

#: `share`: a fraction of n right answers, in [0, 1], so that its interval is Wilson's.
Unit = Literal["", "nats", "bits", "share", "figure", "points", "tokens/s"]

#: Input of a measurement besides the model. A metric of questions is written `name:FILE`, one
#: of lm-evaluation-harness's tasks `name:TASK`; the task's own figure replaces its row.
Needs = Literal["text", "questions", "task", "nothing"]


@dataclass(frozen=True, slots=True)
class Metric:
    """The static facts about a metric.

    Args:
        name: as in result files.
        label: for tables.
        unit: `""` is a ratio without a unit.
        direction: which values are better.
        needs: the input of its measurement besides the model.
        meter: the class that measures it, `module:Class`; a module without a package is one of
            `measure.metrics`. None if it is only part of another metric's result.
        logarithmic: its items are logarithms: the value is the exponential of their mean, and
            differences are taken between logarithms.
        relative: the figure itself compares two models, so no share of a base's is kept.
        headline: place among the figures that tables with little room show, 1 first.
        harness: lm-evaluation-harness's results hold it as a figure of merit.
        scored: `Setup.score` names the accuracy that counts.
    """

    name: str
    label: str
    unit: Unit
    direction: Direction
    needs: Needs = "nothing"
    meter: str | None = None
    logarithmic: bool = False
    relative: bool = False
    headline: int | None = None
    harness: bool = False
    scored: bool = False

    @property
    def written(self) -> str:
        """How the metric is asked for: `kl`, `choices:FILE`, or `bench:TASK`."""
        return self.name + {"questions": ":FILE", "task": ":TASK"}.get(self.needs, "")

    def takes(self, argument: str) -> bool:
        """Whether the metric can be measured with the part after its colon."""
        return self.meter is not None and (self.needs in ("questions", "task")) == bool(argument)


_ROWS = (
    # measured by `scan`, `search`, `prune-depth`, and by commands of their own
    Metric(
        "perplexity",
        "perplexity",
        "",
        "lower",
        needs="text",
        meter="perplexity:PerplexityMeter",
        logarithmic=True,
        headline=5,
    ),
    Metric(
        "kl", "mean KL divergence", "nats", "lower", needs="text", meter="kl:KLMeter", relative=True
    ),
    Metric("suite", "score of 100", "points", "higher", meter="suite:SuiteMeter"),
    Metric(
        "choices",
        "accuracy",
        "share",
        "higher",
        needs="questions",
        meter="choices:ChoicesMeter",
        scored=True,
    ),
    Metric(
        "gsm8k", "problems solved", "share", "higher", needs="questions", meter="gsm8k:GSM8KMeter"
    ),
    Metric(
        "bench",
        "task of lm-evaluation-harness",
        "figure",
        "higher",
        needs="task",
        meter="bench:BenchMeter",
    ),
    # of `kl`
    Metric("kl_mean", "mean KL divergence", "nats", "lower", relative=True, headline=6),
    Metric("kl_median", "median", "nats", "lower", relative=True),
    Metric("kl_p99", "99 % of positions below", "nats", "lower", relative=True),
    Metric("kl_max", "largest", "nats", "lower", relative=True),
    Metric(
        "top1_agreement",
        "same likeliest token",
        "share",
        "higher",
        needs="text",
        meter="kl:AgreementMeter",
        relative=True,
        headline=7,
    ),
    Metric("perplexity_ratio", "perplexity ratio", "", "lower", relative=True),
    # of `choices` and `bench`
    Metric("acc", "accuracy by log-probability", "share", "higher", headline=3, harness=True),
    Metric("acc_norm", "accuracy by character", "share", "higher", headline=2, harness=True),
    Metric("acc_bytes", "accuracy by byte", "share", "higher", harness=True),
    Metric("acc_tokens", "accuracy by token", "share", "higher"),
    Metric("exact_match", "exact answers", "share", "higher", headline=4, harness=True),
    Metric("f1", "F1", "figure", "higher", harness=True),
    Metric("word_perplexity", "perplexity by word", "", "lower", harness=True),
    Metric("byte_perplexity", "perplexity by byte", "", "lower", harness=True),
    Metric("bits_per_byte", "bits per byte", "bits", "lower", harness=True),
    # of the suite (`evaluate`)
    Metric("surgery", "score of 100", "points", "higher", headline=1),
    Metric("surgery_facts", "facts", "share", "higher", meter="suite:PartMeter"),
    Metric("surgery_coherence", "coherence", "share", "higher", meter="suite:PartMeter"),
    Metric("surgery_perplexity", "prose", "figure", "higher", meter="suite:PartMeter"),
    Metric("surgery_repetition", "freedom from loops", "figure", "higher", meter="suite:PartMeter"),
    Metric("surgery_thinking", "thinking", "share", "higher", meter="suite:PartMeter"),
    Metric("surgery_stop", "stop tokens", "share", "higher", meter="suite:PartMeter"),
    # of `speed`
    Metric("prompt_speed", "prompt tokens a second", "tokens/s", "higher"),
    Metric("generation_speed", "generated tokens a second", "tokens/s", "higher"),
)

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}


def metric_of(name: str) -> Metric | None:
    """The row of a metric; a filter or a file behind the name does not matter.

    Example:
        >>> metric_of("exact_match (strict-match)").unit
        'share'
        >>> metric_of("choices:mmlu.jsonl").direction
        'higher'
    """
    return METRICS.get(name) or METRICS.get(name.partition(" (")[0].partition(":")[0])


def direction_of(name: str) -> Direction | None:
    """Which values of a metric are better; None where that is not known."""
    row = metric_of(name)
    return None if row is None else row.direction


def askable() -> list[str]:
    """The values of `--metric` and `--objective`."""
    return [row.written for row in METRICS.values() if row.meter is not None]


def readers(needs: Needs) -> list[str]:
    """Metrics that can be asked for and read that beside the model."""
    rows = METRICS.values()
    return [row.name for row in rows if row.meter is not None and row.needs == needs]


def chosen(metric: str) -> Metric:
    """The row of what `--metric` or `--objective` was given.

    Raises:
        GGSurgeryError: nothing measures that, or its questions are missing.

    Example:
        >>> chosen("choices:mmlu.jsonl").name
        'choices'
    """
    kind, _, data = metric.partition(":")
    row = METRICS.get(kind)
    if row is None or not row.takes(data):
        raise GGSurgeryError("unknown metric", expected=" or ".join(askable()), found=metric)
    return row


def headlines() -> list[str]:
    """The figures that tables with little room show, the first that there is."""
    rows = [row for row in METRICS.values() if row.headline is not None]
    return [row.name for row in sorted(rows, key=lambda row: row.headline or 0)]


def as_direction(value: Any) -> Direction | None:
    """A direction from a result file.

    Raises:
        FieldError: neither direction.
    """
    if value is None:
        return None
    for direction in get_args(Direction):
        if value == direction:
            return direction  # type: ignore[no-any-return]
    raise FieldError(" or ".join(get_args(Direction)), kind_of(value))
