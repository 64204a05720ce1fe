"""What commands print: tables a person can read, or JSON with the same figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from ..errors import printable

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """`--json`: print the figures as one JSON document on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        function
    )


def print_json(result: Any) -> None:
    """One JSON document; a figure that is no number, for which JSON has no word, is null."""
    click.echo(json.dumps(_finite(result), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def note(text: str) -> None:
    """A remark to the user, on standard error so that figures stay alone on standard output."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    """A danger said aloud."""
    click.echo(click.style("warning: ", fg="yellow") + text, err=True)


def table(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """Columns aligned: figures to the right, text to the left."""
    cells = [[_cell(c) for c in row] for row in rows]
    raw = [list(row) for row in [header, *cells]]
    widths = [max(len(r[i]) for r in raw) for i in range(len(header))]
    right = [all(_figure(r[i]) for r in cells) and bool(cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = (
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(header)), line(["─" * w for w in widths]), *map(line, cells)])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value))


def _figure(text: str) -> bool:
    return text in ("–", "") or text.lstrip("+-±×~")[:1].isdigit() or text in ("nan", "inf")


def human_bytes(n: float) -> str:
    """Bytes as people read them: 97.9 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def human_count(n: float) -> str:
    """Parameters as people read them: 134.5M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.2f}{unit}" if unit in "TB" else f"{n / size:.1f}{unit}"
    return str(int(n))
