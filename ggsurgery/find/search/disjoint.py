"""Search set and reporting set: the winner must be measured on what it was not chosen on."""

from __future__ import annotations

from pathlib import Path

from ...errors import GGSurgeryError
from ...files.text import read_bytes, read_text
from ...measure.questions import read_jsonl
from ...measure.setup import Setup

#: Characters (blanks not counted) that two texts must have in common to count as copied.
PIECE = 48
#: Share of the shorter text that may be common (licence lines, headings).
COMMON = 0.01


def check_disjoint(search_setup: Setup, report_setup: Setup) -> None:
    """Refuse a reporting set that holds a part of the search set.

    Raises:
        GGSurgeryError: the same file, equal content, or passages of one in the other.
    """
    ours, theirs = _file(search_setup), _file(report_setup)
    if ours is None or theirs is None or not ours.exists() or not theirs.exists():
        return
    hint = "The winner was chosen on that text: report on another one."
    if ours.samefile(theirs) or read_bytes(ours) == read_bytes(theirs):
        raise GGSurgeryError("the reporting set is the search set", file=theirs, hint=hint)
    if not search_setup.needs_text and not report_setup.needs_text:
        common = _questions(ours) & _questions(theirs)
        if common:
            raise GGSurgeryError(
                "the reporting set overlaps the search set",
                file=theirs,
                expected=f"no question of {ours}",
                found=f"{len(common)} of them, such as {min(common)[:80]!r}",
                hint=hint,
            )
        return
    share, passage = overlap(_letters(ours), _letters(theirs))
    if share > COMMON:
        raise GGSurgeryError(
            "the reporting set overlaps the search set",
            file=theirs,
            expected=f"no passage of {ours}",
            found=f"{share:.0%} of the shorter one, such as {passage!r}",
            hint=hint,
        )


def _file(setup: Setup) -> Path | None:
    return setup.text if setup.needs_text else setup.data


def _questions(path: Path) -> set[str]:
    """What is asked in a file of questions, with the choices but without ids."""
    parts = ("passage", "query", "question", "choices")
    return {" ".join(str(q[p]) for p in parts if p in q) for _, q in read_jsonl(path)}


def _letters(path: Path) -> str:
    """A file without its white space: line breaks may differ between copies of a text."""
    return "".join(read_text(path).split())


def overlap(a: str, b: str) -> tuple[float, str]:
    """Share of the shorter text that is also in the longer one, and the first such passage.

    Pieces of PIECE characters side by side are looked up at every offset of the other text.

    Example:
        >>> text = "".join(map(str, range(99)))
        >>> overlap("x" * 10 + text, text)[0] > 0.7
        True
    """
    if len(a) > len(b):
        a, b = b, a
    pieces = {a[i : i + PIECE] for i in range(0, len(a) - PIECE + 1, PIECE)}
    found: set[str] = set()
    first = ""
    for i in range(len(b) - PIECE + 1):
        piece = b[i : i + PIECE]
        if piece in pieces and piece not in found:
            found.add(piece)
            first = first or piece
    return len(found) * PIECE / max(1, len(a)), first
