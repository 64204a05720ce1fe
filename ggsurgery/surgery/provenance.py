"""Where a file came from, kept in its own header under `ggsurgery.*`.

ggsurgery.version    the version that made the file
ggsurgery.recipe     operations and options, one line of JSON
ggsurgery.sources    names of the inputs (no folders)
ggsurgery.checksums  of the inputs, in the same order
ggsurgery.digest     of the plan
ggsurgery.history    the same entries of the inputs, if they were operated on before
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import FormatError
from ..files.fields import FieldError, Fields, list_of, text
from ..ggufio.constants import GGUFValueType
from ..ggufio.types import Header, Value
from ..plan.recipe import Recipe
from ..plan.types import Plan

PREFIX = "ggsurgery."
_OWN = ("version", "recipe", "sources", "checksums", "digest")


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a file was made."""

    version: str
    recipe: Recipe
    sources: tuple[str, ...]
    checksums: tuple[str, ...]
    digest: str


def entries(
    plan: Plan,
    recipe: Recipe,
    names: Sequence[str],
    headers: Sequence[Header],
    checksums: Sequence[str],
    version: str = __version__,
) -> dict[str, Value]:
    """The header entries that record how a file was made.

    Args:
        names: of the inputs, without folders.
        headers: of the inputs, whose own provenance becomes the history.
        checksums: of the inputs.
    """
    string, array = GGUFValueType.STRING, GGUFValueType.ARRAY
    found = {
        "version": Value.of(version, string),
        "recipe": Value.of(recipe.dumps(), string),
        "sources": Value.of(list(names), array, string),
        "checksums": Value.of(list(checksums), array, string),
        "digest": Value.of(plan.digest, string),
    }
    history = [_earlier(h) for h in headers]
    if any(history):
        found["history"] = Value.of(_dumps(history), string)
    return {PREFIX + key: value for key, value in found.items()}


def _earlier(header: Header) -> dict[str, Any]:
    keys = (*_OWN, "history")
    found = {k: header.metadata[PREFIX + k].value for k in keys if PREFIX + k in header.metadata}
    if "history" in found:
        # Nested as values: text within text would double its backslashes with every operation.
        with suppress(TypeError, ValueError, RecursionError):
            found["history"] = json.loads(found["history"])
    return found


def _dumps(history: Sequence[dict[str, Any]]) -> str:
    try:
        return json.dumps(history, separators=(",", ":"))
    except RecursionError:  # hundreds of operations one after the other: the last ones stay
        shorter = [{k: v for k, v in one.items() if k != "history"} for one in history]
        return json.dumps(shorter, separators=(",", ":"))


def read_provenance(header: Header) -> Provenance:
    """The provenance of a file made here.

    Raises:
        FormatError: the header has none, or it is damaged.
    """
    missing = [PREFIX + k for k in _OWN if PREFIX + k not in header.metadata]
    if missing:
        raise FormatError(
            "no ggsurgery provenance in this file",
            file=header.path,
            tensor=missing[0],
            expected="entries written by ggsurgery",
            found="none",
        )
    fields = Fields({k: header.metadata[PREFIX + k].value for k in _OWN})
    try:
        version, digest = fields.get("version", text), fields.get("digest", text)
        sources, checksums = (fields.get(k, list_of(text)) for k in ("sources", "checksums"))
        recipe = _recipe(header, fields)
    except FieldError as error:
        raise _damaged(header, error.path, error.found, error.expected) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(header, "recipe", str(error)) from None
    if not sources or len(sources) != len(checksums):
        raise _damaged(header, "checksums", f"{len(checksums)} for {len(sources)} sources")
    return Provenance(version, recipe, sources, checksums, digest)


def _recipe(header: Header, entries: Fields) -> Recipe:
    return Recipe.from_json(json.loads(entries.get("recipe", text)), header.path)


def lineage(header: Header) -> tuple[tuple[Recipe, int], ...]:
    """The recipes that led to a file, oldest first, each with its number of inputs.

    For files with several inputs the first one is followed.

    Raises:
        FormatError: the entries are damaged.
    """
    found: list[tuple[Recipe, int]] = []
    one: Any = _earlier(header)
    try:
        while one:
            fields = Fields(one)
            found.append((_recipe(header, fields), len(fields.get("sources", list_of(text)))))
            history = one.get("history")
            history = json.loads(history) if isinstance(history, str) else history
            one = history[0] if history else None
    except FieldError as error:
        where = "" if len(found) == 0 else "history: "
        raise _damaged(header, where + error.path, error.found, error.expected) from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise _damaged(header, "history" if found else "recipe", str(error)) from None
    return tuple(reversed(found))


def _damaged(header: Header, key: str, found: object, expected: object = None) -> FormatError:
    return FormatError(
        "damaged entry", file=header.path, tensor=PREFIX + key, expected=expected, found=found
    )
