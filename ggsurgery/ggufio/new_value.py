"""The type of a new metadata value: one function for everything that writes entries.

A known key gets the type that llama.cpp reads (`ggufio.key_types`), an existing entry keeps its
type unless llama.cpp refuses it, and for any other key a type is chosen and reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import PlanError, did_you_mean
from .constants import GGUFValueType
from .key_types import KeyType, key_type, known_keys, type_text
from .types import Header, Value

#: Types as llama.cpp prints them.
_SHORT = {
    "u8": "uint8",
    "i8": "int8",
    "u16": "uint16",
    "i16": "int16",
    "u32": "uint32",
    "i32": "int32",
    "u64": "uint64",
    "i64": "int64",
    "f32": "float32",
    "f64": "float64",
    "str": "string",
}

_INTEGERS = tuple(GGUFValueType[n] for n in ("INT32", "UINT32", "UINT64", "INT64"))
#: The types that suit a Python value, the usual one first.
_SUITABLE: dict[type, tuple[GGUFValueType, ...]] = {
    bool: (GGUFValueType.BOOL, *_INTEGERS),
    int: (*_INTEGERS, GGUFValueType.FLOAT32, GGUFValueType.BOOL),
    float: (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64),
    str: (GGUFValueType.STRING,),
}

#: Those for a key about which nothing is known.
_USUAL = {kind: types[:1] for kind, types in _SUITABLE.items()} | {int: _INTEGERS}

#: The type that a text under an unknown key looks like.
_LOOKS = {
    "uint32": re.compile(r"[0-9]+"),
    "int32": re.compile(r"-[0-9]+"),
    "float32": re.compile(r"-?([0-9]+\.[0-9]*|\.?[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE),
    "bool": re.compile(r"true|false", re.IGNORECASE),
}

Kind = tuple[GGUFValueType, GGUFValueType | None]


def new_value(
    key: str, value: Any, header: Header, *, old: Value | None = None, asked: str | None = None
) -> tuple[Value, str | None]:
    """Encode a value for a key, and report the type if it had to be chosen.

    Args:
        value: text, a number, a boolean, or a list of such.
        old: the entry's previous value, if any.
        asked: the type that the user requested: `uint32`, `u32`, `array[string]`.

    Returns:
        The value, and a note for the user or None.

    Raises:
        PlanError: unknown type, or the value does not fit the type.
    """
    note = None
    if asked:
        kind, item = parse_type(asked)
    else:
        stated = _stated(value, key_type(key, header.architecture), old)
        kind, item = stated or _chosen(value)
        if stated is None:
            note = _note(key, value, header, type_name(kind, item))
    if kind != GGUFValueType.ARRAY:
        return Value.of(_fit(value, kind), kind, None, header.order), note
    assert item is not None
    if not isinstance(value, list):
        raise PlanError(
            "an array is needed",
            expected=f"JSON such as [1, 2, 3] for {type_name(kind, item)}",
            found=repr(value)[:60],
            hint="`ggsurgery meta set --as-json` reads the value as JSON."
            if isinstance(value, str)
            else None,
        )
    return Value.of([_fit(v, item) for v in value], kind, item, header.order), note


def type_name(kind: GGUFValueType, item: GGUFValueType | None) -> str:
    return kind.name.lower() if item is None else f"array[{item.name.lower()}]"


def parse_type(text: str) -> Kind:
    """A type as written by a user: `uint32`, `u32`, `array[float32]`.

    Raises:
        PlanError: the type does not exist.
    """
    match = re.fullmatch(r"(?:array|arr)\[(\w+)\]", text.strip().lower())
    name = match[1] if match else text.strip().lower()
    try:
        kind = GGUFValueType[_SHORT.get(name, name).upper()]
    except KeyError:
        known = ", ".join(t.name.lower() for t in GGUFValueType)
        raise PlanError(f"unknown type {text!r}", expected=f"{known} or array[TYPE]") from None
    if kind == GGUFValueType.ARRAY:
        raise PlanError(f"no item type in {text!r}", expected="array[uint32], array[string] …")
    return (GGUFValueType.ARRAY, kind) if match else (kind, None)


def _stated(value: Any, known: KeyType | None, old: Value | None) -> Kind | None:
    """The type that the table or the old entry states; None where neither does."""
    is_list = isinstance(value, list)
    if old is not None and (known is None or known.accepts(old)):
        can_change = known is not None and (known.items if is_list else known.scalar)
        if is_list is (old.item_type is not None) or not can_change:
            if is_list and old.item_type is None:
                raise _no_list(type_text(old), value)
            return old.type, old.item_type
    if known is None:
        return None
    if is_list or (known.scalar is None and known.items):
        if not known.items:
            raise _no_list(known.wanted, value)
        return GGUFValueType.ARRAY, _item(value if is_list else [], known.items)
    return None if known.scalar is None else (known.scalar, None)


def _no_list(wanted: str, value: Any) -> PlanError:
    return PlanError(
        "a list does not fit", expected=f"a single value of type {wanted}", found=repr(value)[:60]
    )


def _item(values: Sequence[Any], allowed: Sequence[GGUFValueType]) -> GGUFValueType:
    """The item type for these values among those allowed."""
    suited = [t for t in _SUITABLE.get(_common(values), ()) if t in allowed]
    return next((t for t in suited if _in_range(values, t)), suited[0] if suited else allowed[0])


def _common(values: Sequence[Any]) -> type:
    """The one Python type of the values; numbers of two types are floats."""
    kinds = {type(v) for v in values} or {str}
    return float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else object


def _chosen(value: Any) -> Kind:
    """A type for a key about which nothing is known."""
    if isinstance(value, list):
        if any(isinstance(v, list | dict) for v in value):
            raise PlanError("an array of arrays", hint="GGUF readers know flat arrays only.")
        common = _common(value)
        if common not in _USUAL:
            raise PlanError("items of several types", hint="Name the type with `type`: array[…].")
        return GGUFValueType.ARRAY, _item(value, _USUAL[common])
    if type(value) not in _USUAL:
        raise PlanError(f"no GGUF type for {type(value).__name__}")
    return _item([value], _USUAL[type(value)]), None


def _note(key: str, value: Any, header: Header, chosen: str) -> str:
    known = [k for section in known_keys().values() for k in section]
    names = [k.replace("{arch}", header.architecture) for k in known]
    text = f"{key} is not a known key: written as {chosen}"
    if hint := did_you_mean(key, names, cutoff=0.9):
        return f"{text}. {hint}"
    looks = isinstance(value, str) and [k for k, form in _LOOKS.items() if form.fullmatch(value)]
    return f"{text}; `type` {looks[0] if looks else 'TYPE'} sets another type"


def _in_range(values: Sequence[Any], kind: GGUFValueType) -> bool:
    if kind not in _INTEGERS:
        return True
    low, high = _range(kind)
    return all(low <= v <= high for v in values)


def _fit(value: Any, kind: GGUFValueType) -> Any:
    """A value given as text in the Python type that `kind` needs; strings stay strings."""
    if kind == GGUFValueType.STRING:
        if not isinstance(value, str):
            raise PlanError("a string is needed", found=repr(value)[:60])
        return unicode_text(value, "value")
    try:
        if kind == GGUFValueType.BOOL:
            known = {"true": True, "1": True, "false": False, "0": False}
            return known[str(value).lower()]
        if kind in (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64):
            return float(value)
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        low, high = _range(kind)
        if not low <= int(value) <= high:
            raise ValueError
        return int(value)
    except (KeyError, ValueError, TypeError, OverflowError):
        raise PlanError(
            f"the value does not fit the type {kind.name.lower()}",
            expected=_expected(kind),
            found=repr(value)[:60],
        ) from None


def _range(kind: GGUFValueType) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    bits = int(kind.name.lstrip("UINT"))
    return (
        (0, 2**bits - 1) if kind.name.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )


def _expected(kind: GGUFValueType) -> str:
    if kind == GGUFValueType.BOOL:
        return "true or false"
    if kind in (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64):
        return "a number"
    return "a whole number from {} to {}".format(*_range(kind))


def unicode_text(text: str, what: str) -> str:
    """The text, if it can be written as UTF-8.

    Raises:
        PlanError: it holds half a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PlanError(f"the {what} is not valid Unicode: {error.reason}") from None
    return text
