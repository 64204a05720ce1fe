"""How Ollama reads a Modelfile, written down from its parser (parser/parser.go, `ParseFile`).

A value runs to the end of its line. If it begins with one or three double quotes, it runs to
the first line end with the same quotes before it. Within quotes spaces and line breaks are
kept, other characters that do not print are dropped, and nothing is an escape.
"""

from __future__ import annotations

_WORDS = {
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
}


class NotAModelfile(ValueError):
    """Ollama refuses the file."""


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a Modelfile: their word (of a PARAMETER its name) and their value."""
    found: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        here = text[place]
        if here in " \t\r\n":
            place += 1
        elif here == "#":
            while place < len(text) and text[place] not in "\r\n":
                place += 1
        else:
            word, place = _word(text, place + (not here.isprintable()))
            if word.lower() not in _WORDS:
                raise NotAModelfile(f"no command {word!r}")
            if word.lower() == "parameter":
                word, place = _word(text, place)
            value, place = _value(text, place)
            found.append((word.upper() if word.lower() in _WORDS else word, value))
    if "FROM" not in (word for word, _ in found):
        raise NotAModelfile("no FROM")
    return found


def _word(text: str, place: int) -> tuple[str, int]:
    end = place
    while end < len(text) and ((text[end].isascii() and text[end].isalnum()) or text[end] == "_"):
        end += 1
    if end == len(text) or text[end] not in " \t":
        raise NotAModelfile(f"no value behind {text[place:end]!r}")
    return text[place:end], end + 1


def _value(text: str, place: int) -> tuple[str, int]:
    kept = ""
    while place < len(text):
        here = text[place]
        place += 1
        if here in "\r\n":
            value = _unquoted(kept.strip())
            if value is not None:
                return value, place
            kept += here
        elif here in " \t" or here.isprintable():
            kept += here
    value = _unquoted(kept.strip())
    if value is None:
        raise NotAModelfile("the quotes do not end")
    return value, place


def _unquoted(text: str) -> str | None:
    """The text between its quotes, None where they have not ended yet."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            whole = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if whole else None
    return text
