"""Read untrusted JSON documents, with the type of every field checked.

    entry = Fields(document)
    n = entry.get("n", whole)
    items = entry.get_or("items", list_of(number), ())

A kind (`whole`, `text`, `list_of(number)` …) is a function that returns the value or raises a
`FieldError`; every `Fields` and list on the way adds its key to the error's path, so that it gives
the full path of the field: `field scores[2].n: expected a whole number, found a text`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import FormatError
from .text import MAX_TEXT, read_bytes

T = TypeVar("T")
D = TypeVar("D")
Kind = Callable[[Any], T]

#: How infinities and not-a-number are written, which JSON cannot represent.
_NOT_FINITE = ("nan", "inf", "-inf")
#: Below this a number can be computed with: squared and summed without overflow.
FINITE = 1e100


class FieldError(FormatError):
    """A field is missing or of the wrong type; `path` leads to it."""

    code = "field"

    def __init__(self, expected: str, found: str, path: str = "") -> None:
        self.path = path
        where = f"field {path}" if path else "the document"
        super().__init__(where, expected=expected, found=found)

    def below(self, key: str) -> FieldError:
        """The same error, seen from the document that has this one under `key`."""
        return FieldError(str(self.expected), str(self.found), _joined(key, self.path))


def _joined(key: str, path: str) -> str:
    return f"{key}{path}" if not path or path.startswith("[") else f"{key}.{path}"


class Fields:
    """A JSON object whose fields are read by their type.

    Raises:
        FieldError: it is not an object.
    """

    def __init__(self, data: Any) -> None:
        self.data = mapping(data)

    def get(self, key: str, kind: Kind[T]) -> T:
        """A field that must be there.

        Raises:
            FieldError: it is missing or of another type.
        """
        try:
            return kind(self.data.get(key))
        except FieldError as error:
            raise error.below(key) from None

    def get_or(self, key: str, kind: Kind[T], default: D) -> T | D:
        """A field that may be missing or null.

        Raises:
            FieldError: it is of another type.
        """
        return default if self.data.get(key) is None else self.get(key, kind)


def text(value: Any) -> str:
    """A text; the bytes of names that are not UTF-8 come as halves of surrogate pairs."""
    if not isinstance(value, str):
        raise FieldError("a text", kind_of(value))
    return value


def number(value: Any) -> float:
    """A number; `"nan"`, `"inf"` and `"-inf"` too, as `Score.to_json` writes them."""
    if isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError("a number", kind_of(value))
    try:
        return float(value)
    except OverflowError:
        raise FieldError("a number", kind_of(value)) from None


def finite(value: Any) -> float:
    """A number whose square is one too."""
    found = number(value)
    if not abs(found) < FINITE:
        raise FieldError("a finite number", kind_of(value))
    return found


def whole(value: Any) -> int:
    """A whole number of at most 63 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise FieldError("a whole number", kind_of(value))
    return value


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise FieldError("true or false", kind_of(value))
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """An object of any fields."""
    if not isinstance(value, dict):
        raise FieldError("an object", kind_of(value))
    return value


def list_of(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """A list whose every item is of one kind."""

    def read(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise FieldError("a list", kind_of(value))
        found = []
        for i, item in enumerate(value):
            try:
                found.append(kind(item))
            except FieldError as error:
                raise error.below(f"[{i}]") from None
        return tuple(found)

    return read


def dict_of(kind: Kind[T]) -> Kind[dict[str, T]]:
    """An object whose every value is of one kind."""

    def read(value: Any) -> dict[str, T]:
        fields = Fields(value)
        return {text(key): fields.get(key, kind) for key in fields.data}

    return read


def kind_of(value: object) -> str:
    """A short description of a value for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return "an empty text" if not value.strip() else f"the text {value[:40]!a}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return f"a number of {value.bit_length()} bits"
    return json.dumps(value) if isinstance(value, int | float) else type(value).__name__


def parse_json(data: bytes | str, path: str | Path) -> Any:
    """A JSON document.

    Raises:
        FormatError: not JSON, nested too deep, or a number of thousands of digits.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=path) from error


def read_json(path: str | Path, limit: int = MAX_TEXT) -> Any:
    """The JSON document in a file.

    Raises:
        FormatError: it cannot be read, is longer than `limit` bytes, or is not JSON.
    """
    return parse_json(read_bytes(path, limit), path)
