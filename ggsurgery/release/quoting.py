"""Texts as values of a Modelfile, so that Ollama reads back the same text and nothing more.

How Ollama's parser reads a value (parser/parser.go): it runs to the end of the line. If it
begins with `"` or with three of them, it runs to the first line end that has the same quotes
before it, and nothing within is an escape. Characters that do not print are dropped.
"""

from __future__ import annotations

from ..errors import FormatError


def quoted(text: str) -> str | None:
    """The quoted value that represents a text; None if none can.

    Example:
        >>> print(quoted('</s>'), quoted('"'), quoted('a \"\"\" b'))
        "</s>" \"\"\""\"\"\" None
    """
    if '"""' in text or not all(c.isprintable() or c in "\t\r\n" for c in text):
        return None
    quotes = '"""' if set('"\r\n') & set(text) else '"'
    return f"{quotes}{text}{quotes}"


def block(word: str, text: str) -> str:
    """An instruction with a text of several lines behind it: SYSTEM, LICENSE, TEMPLATE.

    Raises:
        FormatError: the text holds the three quotes that end it.
    """
    if '"""' in text:
        raise FormatError(f'{word} cannot hold """', found=text[:60])
    return f'{word} """{text}"""'


def file_value(name: str) -> str:
    """A file beside the Modelfile, as FROM takes it.

    Raises:
        FormatError: a name that a Modelfile cannot hold.
    """
    path = f"./{name}"
    if not path.isprintable() or path != path.strip():
        raise FormatError(
            "FROM cannot hold this file name", found=repr(name), hint="Rename the file."
        )
    return path
