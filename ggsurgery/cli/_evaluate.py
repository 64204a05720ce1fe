"""Output that the evaluating commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files.atomic import atomic_path, check_output
from ..measure.controls import Outcome
from ..measure.results.comparison import Comparison
from ..measure.suite.result import SurgeryScore
from ..present.numbers import human_bytes
from ._output import note, table


def save_text(out: Path, text: str, *, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Write a text file atomically.

    Raises:
        OutputError: it exists (without `force`), is an input, or its folder is missing.
    """
    data = text.encode(errors="backslashreplace")  # a file name that is not UTF-8
    check_output(out, tuple(inputs), force=force, nbytes=len(data))
    with atomic_path(out, inputs=inputs, force=force) as temporary:
        temporary.write_bytes(data)
    note(f"{out}: {human_bytes(len(data))}")


def note_file(out: str | Path | None) -> None:
    """Name a result file that was written, and its size."""
    if out is not None:
        note(f"{out}: {human_bytes(Path(out).stat().st_size)}")


def suite_table(score: SurgeryScore) -> str:
    """The parts with weight, value, n and interval, then the total."""
    rows = []
    for part in score.parts:
        facts = part.to_json()
        interval = facts["interval"]
        shown = "–" if interval is None else f"[{interval['low']:.2f}, {interval['high']:.2f}]"
        value = f"{part.value:.3f}" if part.applies else "–"
        rows.append(
            (
                part.name,
                f"{part.weight:g}",
                value,
                len(part.items),
                shown,
                part.note or _detail(part.name, part.mean),
            )
        )
    header = ("part", "weight", "value", "n", "95 % interval", "")
    total = (
        f"score {score.total:.1f} / 100, 95 % interval "
        f"[{score.interval.low:.1f}, {score.interval.high:.1f}], n = {score.n}"
    )
    return f"{table(rows, header)}\n\n{total}"


def _detail(name: str, mean: float) -> str:
    return f"{mean:.3f} bits per byte" if name == "perplexity" else ""


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Difference, interval, p-value, test and conclusion."""
    rows = [
        (
            c.label,
            f"{c.base:.4f}",
            f"{c.other:.4f}",
            f"{c.difference:+.4f}",
            "–" if c.interval is None else str(c.interval),
            "–" if c.p_value is None else f"{c.p_value:.4f}",
            c.test,
            c.verdict,
        )
        for c in comparisons
    ]
    header = ("metric", "base", "file", "difference", "95 % interval", "p", "test", "")
    return table(rows, header)


def control_table(outcomes: Sequence[Outcome]) -> str:
    """The controls with size, score and result of the paired test."""
    rows = [
        (
            o.control.kind,
            o.control.name,
            human_bytes(o.bytes),
            "–" if o.score is None else f"{o.score.value:.1f}",
            "–"
            if o.score is None or o.score.interval is None
            else f"[{o.score.interval.low:.1f}, {o.score.interval.high:.1f}]",
            "–" if o.p_corrected is None else f"{o.p_corrected:.4f}",
            o.verdict,
        )
        for o in outcomes
    ]
    header = ("control", "", "size", "score", "95 % interval", "p (Holm)", "")
    return table(rows, header)
