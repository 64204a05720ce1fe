"""Every figure that a command writes: its label, its unit, and which direction is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..files.fields import FieldError, kind_of

Direction = Literal["lower", "higher"]

#: `share`: a fraction of n right answers, in [0, 1], so that its interval is Wilson's.
Unit = Literal["", "nats", "bits", "share", "figure", "points"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What is known of a metric before it is measured.

    Args:
        name: as in result files.
        label: for tables.
        unit: `""` is a ratio without a unit.
        direction: which values are better.
        retained: whether a share of the base's figure means something: 0 is nothing, more is
            better, and the figure does not itself compare two models.
    """

    name: str
    label: str
    unit: Unit
    direction: Direction
    retained: bool = False


_ROWS = (
    # text: `perplexity`, `kl`
    Metric("perplexity", "perplexity", "", "lower"),
    Metric("kl_mean", "mean KL divergence", "nats", "lower"),
    Metric("kl_median", "median", "nats", "lower"),
    Metric("kl_p99", "99 % of positions below", "nats", "lower"),
    Metric("kl_max", "largest", "nats", "lower"),
    Metric("top1_agreement", "same likeliest token", "share", "higher"),
    Metric("perplexity_ratio", "perplexity ratio", "", "lower"),
    # questions: `choices`, `bench`
    Metric("acc", "accuracy by log-probability", "share", "higher", retained=True),
    Metric("acc_norm", "accuracy by character", "share", "higher", retained=True),
    Metric("acc_bytes", "accuracy by byte", "share", "higher", retained=True),
    Metric("acc_tokens", "accuracy by token", "share", "higher", retained=True),
    Metric("exact_match", "exact answers", "share", "higher", retained=True),
    Metric("f1", "F1", "figure", "higher", retained=True),
    # lm-evaluation-harness's figures over a text
    Metric("word_perplexity", "perplexity by word", "", "lower"),
    Metric("byte_perplexity", "perplexity by byte", "", "lower"),
    Metric("bits_per_byte", "bits per byte", "bits", "lower"),
    # the suite: `evaluate`
    Metric("surgery", "score of 100", "points", "higher", retained=True),
    Metric("surgery_facts", "facts", "share", "higher", retained=True),
    Metric("surgery_coherence", "coherence", "share", "higher", retained=True),
    Metric("surgery_perplexity", "prose", "figure", "higher", retained=True),
    Metric("surgery_repetition", "freedom from loops", "figure", "higher", retained=True),
    Metric("surgery_thinking", "thinking", "share", "higher", retained=True),
    Metric("surgery_stop", "stop tokens", "share", "higher", retained=True),
    # objectives of `scan`, `search` and `prune-depth`, which have names of their own
    Metric("kl", "mean KL divergence", "nats", "lower"),
    Metric("suite", "score of 100", "points", "higher", retained=True),
    Metric("choices", "accuracy", "share", "higher", retained=True),
    Metric("gsm8k", "problems solved", "share", "higher", retained=True),
)

METRICS: Mapping[str, Metric] = {row.name: row for row in _ROWS}

#: What lm-evaluation-harness's result files hold that is a figure of merit, whether or not the
#: file says which direction is better.
OF_LM_EVAL = frozenset(
    {
        "acc",
        "acc_norm",
        "acc_bytes",
        "exact_match",
        "f1",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
    }
)


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
