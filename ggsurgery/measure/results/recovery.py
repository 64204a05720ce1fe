"""The recovery by each step after a cut: uncut, bare, healed, distilled, and a control.

Perplexities of one text, paired window by window:

    above      nats a token that a model loses against the uncut one
    won        nats a token that a step gains over the previous step
    control    the uncut model quantized to about the bytes of the last step's model
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.fields import FieldError, Fields, list_of, number, read_json, text, whole
from .comparison import Difference, paired
from .score import Score
from .statistics import Interval

FORMAT = "recovery"
#: The names of the uncut model and of the control in a document.
UNCUT, CONTROL = "uncut", "control"
#: The columns of `Recovery.rows`, and what they hold.
HEAD = ("", "size", "perplexity", "above uncut", "won back", "of the cut's loss")
NOTE = (
    "Above uncut: nats a token lost against the uncut model; won back: gained over the step "
    "before; in brackets 95 % intervals of the windows' paired differences."
)


@dataclass(frozen=True, slots=True)
class Gain:
    """Nats a token, with the 95 % interval of the paired windows; None of a single window."""

    value: float
    interval: Interval | None

    @classmethod
    def of(cls, difference: Difference) -> Gain:
        return cls(difference.value, difference.interval)

    def to_json(self) -> dict[str, Any]:
        interval = None if self.interval is None else self.interval.to_json()
        return {"value": self.value, "interval": interval}

    @classmethod
    def from_json(cls, data: Any) -> Gain:
        """The inverse of `to_json`.

        Raises:
            FieldError: a field is missing or of the wrong type.
        """
        fields = Fields(data)
        interval = fields.get_or("interval", Interval.from_json, None)
        return cls(fields.get("value", number), interval)


@dataclass(frozen=True, slots=True)
class Rung:
    """One model.

    Args:
        name: `uncut`, `bare`, `healed`, `distilled` or `control`.
        what: the file, or the control's type.
        n: tokens that were scored.
        above: against the uncut model.
        won: over the model before it; of the control: over the last step's model.
    """

    name: str
    what: str
    n_bytes: int
    perplexity: float
    stderr: float | None
    n: int
    above: Gain | None = None
    won: Gain | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "what": self.what,
            "bytes": self.n_bytes,
            "perplexity": self.perplexity,
            "stderr": self.stderr,
            "n": self.n,
            "above": None if self.above is None else self.above.to_json(),
            "won": None if self.won is None else self.won.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Rung:
        """The inverse of `to_json`.

        Raises:
            FieldError: a field is missing or of the wrong type.
        """
        fields = Fields(data)
        return cls(
            fields.get("name", text),
            fields.get("what", text),
            fields.get("bytes", whole),
            fields.get("perplexity", number),
            fields.get_or("stderr", number, None),
            fields.get("n", whole),
            fields.get_or("above", Gain.from_json, None),
            fields.get_or("won", Gain.from_json, None),
        )


@dataclass(frozen=True, slots=True)
class Recovery:
    """The models from the uncut one to the last step's, and the control behind them."""

    rungs: tuple[Rung, ...]

    def share(self, rung: Rung) -> float | None:
        """The part of the bare cut's loss that a step won back; None where that means nothing."""
        bare = next((r for r in self.rungs if r.name == "bare"), None)
        if bare is None or bare.above is None or rung.won is None or rung.name == CONTROL:
            return None
        return rung.won.value / bare.above.value if bare.above.value > 0 else None

    @property
    def verdict(self) -> str | None:
        """Whether the control is better than what the steps made; None without one."""
        control = next((r for r in self.rungs if r.name == CONTROL), None)
        if control is None or control.won is None:
            return None
        gain, named = control.won, f"The uncut model in about the same bytes ({control.what})"
        interval = gain.interval
        if interval is None or interval.low <= 0 <= interval.high:
            return f"{named} does not differ significantly from the last step's model on this text."
        word = "better" if gain.value > 0 else "worse"
        return (
            f"{named} predicts this text {word} than the last step's model, by "
            f"{in_nats(gain, absolute=True)}."
        )

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows of a table under `HEAD`."""
        found: list[tuple[Any, ...]] = []
        for rung in self.rungs:
            share, control = self.share(rung), rung.name == CONTROL
            found.append(
                (
                    f"{CONTROL}: {UNCUT}, {rung.what}" if control else rung.name,
                    f"{rung.n_bytes / 2**20:.1f} MiB",
                    f"{rung.perplexity:.3f}",
                    in_nats(rung.above),
                    "–" if control else in_nats(rung.won),
                    "–" if share is None else f"{100 * share:.0f} %",
                )
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return {"ggsurgery": FORMAT, "version": 1, "steps": [r.to_json() for r in self.rungs]}

    @classmethod
    def from_json(cls, data: Any) -> Recovery:
        """The inverse of `to_json`.

        Raises:
            FieldError: a field is missing or of the wrong type.
        """
        return cls(tuple(Fields(data).get("steps", list_of(Rung.from_json))))


def read_recovery(path: Path) -> Recovery:
    """The document that a run writes.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        return Recovery.from_json(read_json(path))
    except FieldError as error:
        raise error.at(file=path) from None


def is_recovery(document: Any) -> bool:
    """Whether a JSON document is a recovery result."""
    return isinstance(document, dict) and document.get("ggsurgery") == FORMAT


def recovery_of(
    steps: Sequence[tuple[str, Score]], control: tuple[str, Score] | None = None
) -> Recovery:
    """Compare perplexities of the same windows.

    Args:
        steps: name and score, the uncut model first.
        control: its file type and score.
    """
    uncut, rungs = steps[0][1], []
    for number_, (name, score) in enumerate(steps):
        above = Gain.of(paired(score, uncut)) if number_ else None
        won = Gain.of(-paired(score, steps[number_ - 1][1])) if number_ > 1 else None
        rungs.append(_rung(name, Path(str(score.provenance["file"])).name, score, above, won))
    if control is not None:
        what, score = control
        above, won = Gain.of(paired(score, uncut)), Gain.of(-paired(score, steps[-1][1]))
        rungs.append(_rung(CONTROL, what, score, above, won))
    return Recovery(tuple(rungs))


def _rung(name: str, what: str, score: Score, above: Gain | None, won: Gain | None) -> Rung:
    size = int(score.provenance.get("bytes") or 0)
    return Rung(name, what, size, score.value, score.stderr, score.n, above, won)


def in_nats(gain: Gain | None, *, absolute: bool = False) -> str:
    """`0.310 nats a token (0.280 to 0.340)`, without the unit in a table's cells."""
    if gain is None or not math.isfinite(gain.value):
        return "–"
    ends = None if gain.interval is None else (gain.interval.low, gain.interval.high)
    value = gain.value
    if absolute:
        value = abs(value)
        ends = None if ends is None else (min(map(abs, ends)), max(map(abs, ends)))
    span = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
    return f"{value:.3f}{' nats a token' if absolute else ''}{span}"
