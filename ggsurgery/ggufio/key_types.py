"""Which GGUF type the value of a known metadata key has: one table for writing and checking.

The table, `key_types.toml`, comes from the sources of llama.cpp and the package gguf. llama.cpp
refuses to load a file in which a key that it reads has another type.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .constants import GGUFValueType
from .types import Value

_SECTIONS = ("everywhere", "by_architecture", "written")
DATA = Path(__file__).with_name("key_types.toml")

_NAMES = tuple(t.name.lower() for t in GGUFValueType if t != GGUFValueType.ARRAY)
#: Every scalar type (strings are scalars), and every type of array.
ANY_SCALAR = frozenset(_NAMES)
ANY_ARRAY = frozenset(f"array[{name}]" for name in _NAMES)


@dataclass(frozen=True, slots=True)
class KeyType:
    """The types that a key's value may have.

    Args:
        text: the types as in the table, for messages.
        accepted: their names, with those that the loader ignores.
        enforced: whether llama.cpp refuses a file with another type.
    """

    text: str
    accepted: frozenset[str]
    enforced: bool

    @property
    def scalar(self) -> GGUFValueType | None:
        """The type of a single value; None where the key holds an array."""
        names = self.accepted & ANY_SCALAR
        return GGUFValueType[next(iter(names)).upper()] if len(names) == 1 else None

    @property
    def items(self) -> tuple[GGUFValueType, ...]:
        """The item types that an array may have; empty where the key holds a single value."""
        if self.accepted >= ANY_ARRAY:
            return ()
        return tuple(t for t in GGUFValueType if f"array[{t.name.lower()}]" in self.accepted)

    @property
    def wanted(self) -> str:
        """The types for a message: without those that are ignored."""
        return " or ".join(p for p in self.text.split(" or ") if p not in ("scalar", "array"))

    def accepts(self, value: Value) -> bool:
        return type_text(value) in self.accepted


def type_text(value: Value) -> str:
    """A value's type as it is written here: `uint32`, `array[string]`."""
    item = value.item_type
    return value.type.name.lower() if item is None else f"array[{item.name.lower()}]"


def expand(text: str) -> frozenset[str]:
    """The names of types in a text such as `uint32 or array[int32|uint32]`."""
    found: set[str] = set()
    for part in text.split(" or "):
        if part == "scalar":
            found |= ANY_SCALAR
        elif part == "array":
            found |= ANY_ARRAY
        elif part.startswith("array["):
            found |= {f"array[{item}]" for item in part[6:-1].split("|")}
        else:
            found.add(part)
    return frozenset(found)


def key_type(key: str, architecture: str) -> KeyType | None:
    """The known facts about a key for an architecture; None for an unknown key."""
    everywhere, by_architecture, written = (_tables()[name] for name in _SECTIONS)
    prefix = f"{architecture}."
    if architecture and key.startswith(prefix):
        key = "{arch}." + key.removeprefix(prefix)
    if key in everywhere:
        return _known(everywhere[key], True)
    if key in by_architecture:
        return _of_architecture(by_architecture[key], architecture)
    if key not in written:
        key = next((k for k, pattern in _families() if pattern.fullmatch(key)), key)
    return _known(written[key], False) if key in written else None


def _of_architecture(text: str, architecture: str) -> KeyType:
    """The types of the architecture's loader, else the types of the loader that most share."""
    groups = [part.partition(": ")[::2] for part in text.split("; ")]
    for types, users in groups:
        if architecture in users.split():
            return _known(types, True)
    types = max(groups, key=lambda group: len(group[1].split()))[0]
    return _known(types, False)


def _known(text: str, enforced: bool) -> KeyType:
    return KeyType(text, expand(text), enforced)


def known_keys() -> dict[str, dict[str, str]]:
    """The whole table: its sections, each with keys and types as text."""
    return {name: dict(section) for name, section in _tables().items()}


@cache
def _tables() -> dict[str, dict[str, str]]:
    return tomllib.loads(DATA.read_text(encoding="utf-8"))


@cache
def _families() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Keys of which there are many (`general.dataset.{id}.name`), with what matches them."""
    return tuple(
        (key, re.compile(re.escape(key).replace(r"\{id\}", r"\d+").replace(r"\{name\}", r".+")))
        for key in _tables()["written"]
        if "{id}" in key or "{name}" in key
    )
