"""Convert msgspec's errors in requests and recipes to messages with the field's location."""

from __future__ import annotations

import re
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

#: msgspec's names of types.
_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "keys",
    "path": "a path",
    "str": "a text",
}
_BOUNDS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}

#: Keys from the outside in; numbers are positions in lists.
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a value.

    Args:
        kind: an `unknown` key, a `missing` one (both are the last of `path`), or a `wrong` value.
        expected: what should have been there; of an unknown key the known ones.
        known: keys in the place of an unknown one.
        bound: a value of the right type is too large or too small.
    """

    kind: Literal["unknown", "missing", "wrong"]
    path: Path
    expected: str
    known: tuple[str, ...] = ()
    bound: bool = False

    @property
    def name(self) -> str:
        """The path as people write it: `evaluate.choices.limit`."""
        return ".".join(key for key in self.path if isinstance(key, str))


def fault_of(error: msgspec.ValidationError, kind: Any) -> Fault:
    """The error of `msgspec.convert(value, kind)`."""
    match = re.fullmatch(r"(.*?)(?: - at `\$(.*)`)?", str(error), re.DOTALL)
    assert match is not None
    text, path = match[1], _path(match[2] or "")
    if named := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        known = tuple(f.encode_name for f in msgspec.structs.fields(type_at(kind, path)))
        return Fault("unknown", (*path, named[1]), f"one of {', '.join(known)}", known)
    if named := re.fullmatch(r"Object missing required field `(.*)`", text):
        return Fault("missing", (*path, named[1]), "")
    wanted = type_at(kind, path)
    if bound := re.fullmatch(r"Expected `\w+` (>=|>|<=|<) (.*)", text):
        limit = f"{_BOUNDS[bound[1]]} {bound[2].removesuffix('.0')}"
        return Fault("wrong", path, limit, bound=True)
    if named := re.fullmatch(r"Expected `(.*?)`(?:, got `.*`)?", text):
        names = [n for n in named[1].split(" | ") if n != "null"]
        return Fault("wrong", path, " or ".join(_WORDS.get(n, n) for n in names))
    if get_origin(wanted) is Literal:
        return Fault("wrong", path, f"one of {', '.join(map(str, get_args(wanted)))}")
    return Fault("wrong", path, text)


def plain_type(kind: Any) -> Any:
    """A type without its `Annotated` and without the None that means "not given"."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        others = [k for k in get_args(kind) if k is not types.NoneType]
        return plain_type(others[0]) if len(others) == 1 else kind
    return kind


def type_at(kind: Any, path: Path) -> Any:
    """The plain type of the value at a path."""
    kind = plain_type(kind)
    for key in path:
        if isinstance(key, int):
            kind = get_args(kind)[0]
        elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            kind = next(f.type for f in msgspec.structs.fields(kind) if f.encode_name == key)
        else:
            kind = get_args(kind)[-1]
        kind = plain_type(kind)
    return kind


def _path(text: str) -> Path:
    """msgspec's `.evaluate.choices[0].limit`."""
    parts = re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", text)
    return tuple(key or (int(place) if place.isdecimal() else place) for key, place in parts)
