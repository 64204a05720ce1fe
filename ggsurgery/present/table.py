"""One table, drawn three ways: columns for a terminal, Markdown, HTML.

A column whose cells are all figures is set to the right, in every form. Texts come from files:
each form escapes them by its own rules.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..errors import printable

#: A column of text is not wrapped below this many cells.
NARROWEST = 12

_NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?:\s?(?!e[+-]?\d)[A-Za-z%/]{1,9})?"
#: `12`, `+0.25`, `97.9 MiB`, `0.50 ± 0.02`, `10 → 7`, `0-5,8`, `0.43 [0.20, 0.61]`, `3 (30 %)`.
_FIGURE = re.compile(
    rf"[-+±×~≤≥]*\s?{_NUMBER}(?:\s?(?:±|→|–|-|to|of|/)\s?{_NUMBER})*(?:\s[\[(][^\])]*[\])])?"
    r"|–|-?inf|nan|"
)
#: Markdown divides a table at a bar before it reads anything else, inside a code span too.
_BAR, _ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\|"), r"\1\\|"


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with remarks; each remark is its words and a class for HTML (or "")."""

    value: Any
    notes: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        text = shown(self.value)
        return f"{text} ({'; '.join(words for words, _ in self.notes)})" if self.notes else text


class Table:
    """Rows of values under the names of their columns; without names, pairs of name and value.

    Example:
        >>> print(Table(("layer", "share"), [(0, 0.5), (10, 0.25)]).text())
        layer   share
        ─────  ──────
            0  0.5000
           10  0.2500
    """

    __slots__ = ("header", "right", "rows")

    def __init__(self, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self.header = tuple(header)
        self.rows = [tuple(row) for row in rows]
        columns = len(self.header) if self.header else max(map(len, self.rows), default=0)
        #: Whether a column is set to the right; pairs are not.
        self.right = [bool(self.header) and self._figures(i) for i in range(columns)]

    def _figures(self, column: int) -> bool:
        texts = [shown(_value(row[column])) for row in self.rows]
        return any(texts) and all(map(_FIGURE.fullmatch, texts))

    def text(self, width: int | None = None) -> str:
        """Aligned columns; text is wrapped to fit, figures and names stay whole.

        Args:
            width: cells of a line; None sets no bound.
        """
        names = [printable(name) for name in self.header]
        cells = [[printable(_text(c)) for c in row] for row in self.rows]
        columns = range(len(self.right))
        lines = [names, *cells] if names else cells
        widths = [max((shown_width(r[i]) for r in lines), default=0) for i in columns]
        least = [
            widths[i]
            if self.right[i] or (not names and i == 0)
            else max(NARROWEST, shown_width(names[i]) if names else 0)
            for i in columns
        ]
        while width and sum(widths) + 2 * (len(widths) - 1) > width:
            widest = max(columns, key=lambda i: widths[i] - least[i])
            if widths[widest] <= least[widest]:
                break
            widths[widest] -= 1
        head = [*self._lines(names, widths), "  ".join("─" * w for w in widths)] if names else []
        return "\n".join([*head, *(line for row in cells for line in self._lines(row, widths))])

    def _lines(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        wrapped = [wrap(text, width) for text, width in zip(row, widths, strict=True)]
        lines = []
        for n in range(max(map(len, wrapped), default=0)):
            parts = []
            for part, width, right in zip(wrapped, widths, self.right, strict=True):
                text = part[n] if n < len(part) else ""
                space = " " * (width - shown_width(text))
                parts.append(space + text if right else text + space)
            lines.append("  ".join(parts).rstrip())
        return lines

    def markdown(self) -> str:
        """A table as GitHub reads it; a value that is not `Markdown` shows as plain text."""
        rule = "|".join(" ---: " if right else " --- " for right in self.right)
        return "\n".join([_row(self.header), f"|{rule}|", *map(_row, self.rows)])

    def html(self, kind: str = "") -> str:
        """A `<table>`, scrolled sideways where it is wider than the page.

        Args:
            kind: its class.
        """
        sides = ["" if right else ' class="text"' for right in self.right]
        names = [escape(name) for name in self.header]
        head = "".join(
            f'<th scope="col"{side}>{name}</th>' for name, side in zip(names, sides, strict=True)
        )
        lines = [
            f'<div class="scroll"><table class="{escape(kind)}">',
            f"<thead><tr>{head}</tr></thead><tbody>",
        ]
        for row in self.rows:
            first, *others = (f"{escape(shown(_value(c)))}{_notes(c)}" for c in row)
            tail = "".join(
                f'<td{side} data-column="{name}">{cell}</td>'
                for cell, side, name in zip(others, sides[1:], names[1:], strict=True)
            )
            lines.append(f'<tr><th scope="row"{sides[0]}>{first}</th>{tail}</tr>')
        return "\n".join([*lines, "</tbody></table></div>"])


def shown(value: Any) -> str:
    """A value as tables write it: a dash for None, four decimals.

    Example:
        >>> shown(0.25), shown(None), shown(12)
        ('0.2500', '–', '12')
    """
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def shown_width(text: str) -> int:
    """Cells that a terminal needs: two for East Asian wide characters, none for accents alone."""
    if text.isascii():
        return len(text)
    return sum(_cells(c) for c in text)


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


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _value(cell: Any) -> Any:
    return cell.value if isinstance(cell, Cell) else cell


def _text(cell: Any) -> str:
    return str(cell) if isinstance(cell, Cell) else shown(cell)


def _notes(cell: Any) -> str:
    notes = cell.notes if isinstance(cell, Cell) else ()
    return "".join(
        f'<small class="{escape(kind)}">{escape(words)}</small>'
        if kind
        else f"<small>{escape(words)}</small>"
        for words, kind in notes
    )


def _row(cells: Sequence[Any]) -> str:
    from .markdown import Markdown, plain  # for one of the three forms

    texts = (c if isinstance(c, Markdown) else plain(_text(c)) for c in cells)
    return f"| {' | '.join(_BAR.sub(_ESCAPED, text) for text in texts)} |"
