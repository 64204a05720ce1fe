"""llama.cpp's log: silenced, recorded, and quoted in errors.

with log.capture() as lines:
    ...                       # calls into llama.cpp
lines.errors()                # its messages at level warning or error
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WARN, ERROR, CONTINUED = 3, 4, 5  # GGML_LOG_LEVEL_*; CONTINUED continues the previous line

Listener = Callable[[int, str], None]

_listeners: list[Listener] = []
_keep: list[Any] = []  # ctypes callbacks must outlive the library's use of them


class Lines(list[tuple[int, str]]):
    """Pieces of the log with their level, as llama.cpp sent them."""

    def text(self) -> str:
        return "".join(piece for _, piece in self)

    def errors(self, last: int = 4) -> str:
        """The last lines at level warning or error, joined; empty if there was none."""
        lines: list[str] = []
        serious = False
        for level, piece in self:
            if level != CONTINUED:
                serious = level in (WARN, ERROR)
                if serious:
                    lines.append("")
            if serious:
                lines[-1] += piece
        found = [clean for line in lines if (clean := line.strip(" \n=."))]
        return "; ".join(found[-last:])


def attach(module: Any) -> None:
    """Send the log of the module `llama_cpp.llama_cpp` here; called once by `binding`."""

    def receive(level: int, text: bytes, _: Any) -> None:
        piece = (level, text.decode("utf-8", "replace"))
        for listener in list(_listeners):
            listener(*piece)

    callback = module.llama_log_callback(receive)
    _keep.append(callback)
    module.llama_log_set(callback, ctypes.c_void_p(0))


@contextmanager
def capture(listener: Listener | None = None) -> Iterator[Lines]:
    """Collect the log of the calls within; `listener` sees each piece as it comes."""
    lines = Lines()

    def collect(level: int, text: str) -> None:
        lines.append((level, text))
        if listener is not None:
            listener(level, text)

    _listeners.append(collect)
    try:
        yield lines
    finally:
        _listeners.remove(collect)
