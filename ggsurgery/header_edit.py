"""Change single metadata entries; their types stay unless another one is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gguf.constants import GGUFValueType, Keys

from .errors import GGSurgeryError, PlanError
from .ggufio.header import MAX_KEY
from .ggufio.types import Header, Value
from .plan.types import Edit

#: Entries that say how the rest of the file is to be read.
_STRUCTURE = re.compile(r"^(general\.(alignment|architecture)|split\..*|.*\.block_count)$")
#: Entries that every surgery writes anew, so that setting them would have no effect.
_OWN = re.compile(r"^ggsurgery\.(version|recipe|sources|checksums|digest|history|padding)$")


def edited(header: Header, metadata: dict[str, Value], edits: Iterable[Edit]) -> dict[str, Value]:
    """The metadata after the `set` and `unset` edits of a plan.

    Raises:
        PlanError: a value does not fit, a key to remove is missing, or the entry says how
            the file is to be read and cannot be changed alone.
    """
    metadata = dict(metadata)
    for edit in edits:
        options = dict(edit.params)
        key = str(options["key"]).replace("{arch}", header.architecture)
        if _STRUCTURE.match(key):
            raise PlanError(
                "says how the file is to be read and cannot be changed alone",
                file=header.path,
                tensor=key,
                hint="Layer counts follow from `delete`, `keep` and the others.",
            )
        if _OWN.match(key):
            raise PlanError(
                "tells how the file was made and is written by ggsurgery alone",
                file=header.path,
                tensor=key,
            )
        if edit.kind == "unset":
            if key not in metadata:
                raise PlanError(
                    f"no entry {key} to remove",
                    file=header.path,
                    hint="`ggsurgery meta show` lists the entries.",
                )
            del metadata[key]
        elif edit.kind == "set":
            if not 0 < len(_unicode(key, "key").encode()) <= MAX_KEY:
                raise PlanError("impossible length of a key", expected=f"1 to {MAX_KEY} bytes")
            try:
                metadata[key] = new_value(
                    options.get("value"), metadata.get(key), options.get("type"), header
                )
            except GGSurgeryError as error:
                raise error.at(file=header.path, tensor=key) from None
    return metadata


def new_value(value: Any, old: Value | None, type_text: str | None, header: Header) -> Value:
    """Encode a value in the type asked for, else the old entry's, else the nearest.

    `type_text` is written as gguf names types in lower case: `uint32`, `string`, and
    `array[uint32]` for arrays.

    Raises:
        PlanError: unknown type, or the value does not fit it.
    """
    kind, item = _parse_type(type_text) if type_text else _kind_of(value, old)
    if kind is GGUFValueType.ARRAY:
        if not isinstance(value, list):
            raise PlanError(
                "an array is needed", expected="JSON such as [1, 2, 3]", found=repr(value)[:60],
                hint="`ggsurgery meta set --as-json` reads the value as JSON."
                if isinstance(value, str) else None,
            )  # fmt: skip
        assert item is not None
        return Value.of([_fit(v, item) for v in value], kind, item, header.order)
    return Value.of(_fit(value, kind), kind, None, header.order)


def _parse_type(text: str) -> tuple[GGUFValueType, GGUFValueType | None]:
    match = re.fullmatch(r"array\[(\w+)\]", text.strip().lower())
    name = match[1] if match else text.strip()
    try:
        kind = GGUFValueType[name.upper()]
    except KeyError:
        known = ", ".join(t.name.lower() for t in GGUFValueType)
        raise PlanError(f"unknown type {text!r}", expected=f"{known} or array[TYPE]") from None
    if kind is GGUFValueType.ARRAY:
        raise PlanError(f"no item type in {text!r}", expected="array[uint32], array[string] …")
    return (GGUFValueType.ARRAY, kind) if match else (kind, None)


def _kind_of(value: Any, old: Value | None) -> tuple[GGUFValueType, GGUFValueType | None]:
    if old is not None:
        return old.type, old.item_type
    if isinstance(value, list):
        if any(isinstance(v, list | dict) for v in value):
            raise PlanError("an array of arrays", hint="GGUF readers know flat arrays only.")
        kinds = {_kind_of(v, None)[0] for v in value} or {GGUFValueType.STRING}
        if len(kinds) > 1:
            raise PlanError("items of several types", hint="Name the type with --type array[…].")
        return GGUFValueType.ARRAY, kinds.pop()
    for python, kind in (
        (bool, GGUFValueType.BOOL),
        (int, GGUFValueType.INT32),
        (float, GGUFValueType.FLOAT32),
        (str, GGUFValueType.STRING),
    ):
        if isinstance(value, python):
            return kind, None
    raise PlanError(f"no GGUF type for {type(value).__name__}")


def _fit(value: Any, kind: GGUFValueType) -> Any:
    """A value given as text in the Python type that `kind` needs; strings stay strings."""
    if kind is GGUFValueType.STRING:
        if not isinstance(value, str):
            raise PlanError("a string is needed", found=repr(value)[:60])
        return _unicode(value, "value")
    try:
        if kind is GGUFValueType.BOOL:
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
    except (KeyError, ValueError, TypeError):
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
    if kind is GGUFValueType.BOOL:
        return "true or false"
    if kind in (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64):
        return "a number"
    return "a whole number from {} to {}".format(*_range(kind))


def _unicode(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PlanError(f"the {what} is no valid Unicode: {error.reason}") from None
    return text


def is_header_edit(edit: Edit) -> bool:
    return edit.kind in ("set", "unset")


def chat_template_key() -> str:
    """The entry that holds the chat template."""
    return str(Keys.Tokenizer.CHAT_TEMPLATE)
