"""What commands print: tables a person can read, or JSON with the same figures.

The only place that writes to a terminal. Texts come from files, so everything that could
steer the terminal is escaped here, whoever prints it.
"""

from __future__ import annotations

import math
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from ..errors import json_text, printable

F = TypeVar("F", bound=Callable[..., Any])


#: What lays a text out and is not escaped where a text may have several lines.
_LAYOUT = "\n\t"


def json_option(function: F) -> F:
    """`--json`: print the figures as one JSON document on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        function
    )


def echo(text: object = "") -> None:
    """Print on standard output; line breaks stay, all that steers a terminal is escaped."""
    click.echo(printable(str(text), _LAYOUT))


def echo_exact(text: str) -> None:
    """Print a text of a file as it stands there, byte for byte, with a line break at its end.

    A terminal gets it escaped, as `echo` does it.
    """
    text += "" if text.endswith("\n") else "\n"
    buffer = getattr(sys.stdout, "buffer", None)
    if sys.stdout.isatty():
        echo(text.removesuffix("\n"))
    elif buffer is None:  # a stream of text that Python code put there
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        buffer.write(text.encode("utf-8", "surrogateescape"))
        buffer.flush()


def print_json(result: Any) -> None:
    """One JSON document; a figure that is no number, for which JSON has no word, is null."""
    click.echo(json_text(_finite(result), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def note(*texts: str) -> None:
    """Remarks to the user, on standard error so that figures stay alone on standard output."""
    for text in texts:
        click.echo(printable(text, _LAYOUT), err=True)


def warn(*texts: str) -> None:
    """Warnings, each on a line of its own."""
    for text in texts:
        click.echo(click.style("warning: ", fg="yellow") + printable(text, _LAYOUT), err=True)


#: A column of text is not wrapped below this many cells.
NARROWEST = 12


def table(rows: Iterable[Sequence[Any]], header: Sequence[str], *, width: int | None = None) -> str:
    """Columns aligned: figures to the right, text to the left.

    Text is wrapped so that the table fits its width; figures and headings stay whole.

    Args:
        width: cells of a line; None takes the terminal's, and no bound where there is none.
    """
    cells = [[_cell(c) for c in row] for row in rows]
    header = [printable(name) for name in header]
    columns = range(len(header))
    right = [all(_figure(r[i]) for r in cells) and bool(cells) for i in columns]
    widths = [max(shown_width(r[i]) for r in [header, *cells]) for i in columns]
    least = [widths[i] if right[i] else max(NARROWEST, shown_width(header[i])) for i in columns]
    limit = terminal_width() if width is None else width
    while limit and sum(widths) + 2 * (len(widths) - 1) > limit:
        widest = max(columns, key=lambda i: widths[i] - least[i])
        if widths[widest] <= least[widest]:
            break
        widths[widest] -= 1

    def pad(text: str, i: int) -> str:
        space = " " * (widths[i] - shown_width(text))
        return space + text if right[i] else text + space

    def lines(row: Sequence[str]) -> list[str]:
        wrapped = [wrap(text, widths[i]) for i, text in enumerate(row)]
        tall = range(max(map(len, wrapped), default=0))
        return [
            "  ".join(pad(w[n] if n < len(w) else "", i) for i, w in enumerate(wrapped)).rstrip()
            for n in tall
        ]

    body = [line for row in cells for line in lines(row)]
    return "\n".join([*lines(header), *lines(["─" * w for w in widths]), *body])


def terminal_width() -> int | None:
    """Cells of a line of the terminal on standard output; None where it is a file or a pipe."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def shown_width(text: str) -> int:
    """Cells that a terminal needs: two for East Asian wide characters, none for accents alone."""
    if text.isascii():
        return len(text)
    return sum(_cells(c) for c in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` cells, broken between words where that is possible."""
    if shown_width(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if shown_width(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = ""
        for character in word:  # a word longer than the line
            if shown_width(line + character) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line]


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
