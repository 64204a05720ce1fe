"""Which metadata entries differ between two headers, and how they print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .types import Value

#: The entry that fills the header up to an alignment; it carries no information.
PADDING_KEY = "ggsurgery.padding"


@dataclass(frozen=True, slots=True)
class Change:
    """A metadata entry before and after; None where it does not exist."""

    key: str
    before: Value | None
    after: Value | None

    @property
    def row(self) -> tuple[str, str | None, str | None]:
        """The key and both values in short text."""
        return self.key, short(self.before), short(self.after)

    def to_json(self) -> dict[str, Any]:
        """The key and both values whole."""
        values = [None if v is None else v.value for v in (self.before, self.after)]
        return {"key": self.key, "before": values[0], "after": values[1]}


def changes(before: dict[str, Value], after: dict[str, Value]) -> list[Change]:
    """The entries that differ, in the order of the new header; filler is ignored."""
    keys = [*after, *(k for k in before if k not in after)]
    return [
        Change(k, before.get(k), after.get(k))
        for k in keys
        if k != PADDING_KEY
        and (
            k not in before
            or k not in after
            or before[k].type != after[k].type
            or not _alike(before[k], after[k])
        )
    ]


def _alike(a: Value, b: Value) -> bool:
    if a.order == b.order:
        return a.raw == b.raw
    return a.item_type == b.item_type and bool(a.value == b.value)


def short(value: Value | None, limit: int = 60) -> str | None:
    """A value in one line; long arrays with their length instead of all their items."""
    if value is None:
        return None
    return value.preview(limit).replace("\n", "\\n")
