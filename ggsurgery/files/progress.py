"""What long work calls to say how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with how many are done, and how many there are."""

    def __call__(self, done: int, total: int, /) -> object: ...


class NamedProgress(Protocol):
    """Called with what is being worked on, how many are done, and how many there are."""

    def __call__(self, name: str, done: int, total: int, /) -> object: ...
