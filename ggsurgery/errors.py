"""The errors that ggsurgery raises deliberately.

All of them descend from `GGSurgeryError`. A message answers five questions, as
far as they apply: which file, which tensor or key, what was expected, what was
found, and what to do next. The command line prints the message as one line and
exits with `exit_code`; a library caller catches the class. Each class has a `code`, which stays the
same if a message is reworded; `--json` and `--debug` print it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar


def printable(text: str, keep: str = "") -> str:
    """The text with control characters escaped: texts from a file must not control a terminal.

    All invisible characters are escaped: escape sequences, line breaks, marks that change the
    writing direction, zero-width characters.

    Args:
        keep: characters that stay as they are, such as line breaks.

    Example:
        >>> printable("blk.0\\x1b[2J")
        'blk.0\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    hidden = {c for c in set(text) if not c.isprintable()} - set(keep)
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in hidden})


def one_line(text: object) -> str:
    """A text from a file on one line, escaped as by `printable`."""
    return printable(" ".join(str(text).split()))


def json_text(value: Any, **options: Any) -> str:
    """A JSON document as text that UTF-8 can hold and that steers no terminal: bytes of a file's
    names that are not UTF-8, which Python keeps as surrogates, and all that `printable` escapes
    become JSON's own escapes.

    Args:
        options: as for `json.dumps`.

    Example:
        >>> json_text({"name": "blk\\udcff é"})
        '{"name": "blk\\\\udcff é"}'
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    hidden = {c for c in set(text) if not c.isprintable()} - {"\n"}
    return text.translate({ord(c): json.dumps(c)[1:-1] for c in hidden})


def rename(text: str, names: Mapping[str, str]) -> str:
    """Replace backquoted field names in a message by the names that the reader uses.

    Example:
        >>> rename("`ctx` 8 is too small", {"ctx": "--ctx"})
        '--ctx 8 is too small'
    """
    return re.sub(r"`(\w+(?:: false)?)`", lambda match: names.get(match[1], match[0]), text)


def did_you_mean(name: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> str | None:
    """A hint with the known names closest to a mistyped one; None if none is close.

    Example:
        >>> did_you_mean("delet", ["delete", "swap"])
        'Did you mean delete?'
    """
    from difflib import get_close_matches  # imported only when a name is wrong

    near = get_close_matches(name, list(known), n, cutoff)
    return f"Did you mean {' or '.join(near)}?" if near else None


class GGSurgeryError(Exception):
    """Root of all errors that ggsurgery raises deliberately.

    Args:
        problem: what is wrong, a clause without a full stop.
        file: the file concerned, shown as given.
        tensor: the tensor or metadata key concerned.
        expected: the expected value.
        found: the actual value.
        hint: what the user can do next.

    Example:
        >>> str(FormatError("wrong magic", file="a.gguf", expected="GGUF", found="PK"))
        'a.gguf: wrong magic: expected GGUF, found PK'
    """

    code: ClassVar[str] = "error"
    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        tensor: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.tensor = tensor
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(self._message())

    def _message(self) -> str:
        parts = [str(p) for p in (self.file, self.tensor, self.problem) if p is not None]
        text = ": ".join(parts)
        facts = []
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        if self.found is not None:
            facts.append(f"found {self.found}")
        if facts:
            text += ": " + ", ".join(facts)
        if self.hint:
            text += f". {self.hint}"
        return one_line(text)

    def to_json(self) -> dict[str, str | None]:
        """The code and the parts of the message; what does not apply is None."""
        parts = {k: getattr(self, k) for k in ("file", "tensor", "problem", "expected", "found")}
        texts = {k: None if v is None else str(v) for k, v in parts.items()}
        return {"code": self.code, **texts, "hint": self.hint, "message": str(self)}

    def at(self, *, file: str | Path | None = None, tensor: str | None = None) -> GGSurgeryError:
        """A copy of the error with its location added by a caller that knows it."""
        state = self.__dict__ | {
            "file": self.file or (None if file is None else str(file)),
            "tensor": self.tensor or tensor,
        }
        return _rebuild(type(self), state)

    def reworded(self, change: Callable[[str], str]) -> GGSurgeryError:
        """A copy of the error with changed texts, for example with flags in place of field
        names."""
        texts = {
            k: v for k in ("problem", "expected", "hint") if isinstance(v := getattr(self, k), str)
        }
        return _rebuild(type(self), self.__dict__ | {k: change(v) for k, v in texts.items()})

    def __reduce__(self) -> tuple[object, ...]:  # errors cross process borders (worker)
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[GGSurgeryError], state: dict[str, object]) -> GGSurgeryError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    Exception.__init__(error, error._message())
    return error


class FormatError(GGSurgeryError):
    """A file is not the GGUF (JSONL, YAML, imatrix …) that it should be."""

    code = "format"


class InputError(GGSurgeryError):
    """An input cannot be read, or another program changed it meanwhile."""

    code = "input"


class RequestError(GGSurgeryError, ValueError):
    """A field of a request has a wrong value, is missing, or contradicts another one.

    Field names are in backquotes.
    """

    code = "request"


class PlanError(GGSurgeryError):
    """An operation that cannot be carried out on this stack of layers."""

    code = "plan"


class ArchitectureError(GGSurgeryError):
    """An operation that would change the kind of a layer."""

    code = "architecture"


class OutputError(GGSurgeryError):
    """The output cannot be written: it exists, is an input, or the disk is full."""

    code = "output"


class EngineError(GGSurgeryError):
    """llama.cpp refused, failed or crashed."""

    code = "engine"
