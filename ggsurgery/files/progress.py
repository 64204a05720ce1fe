"""Callback types with which long work reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the number done and the total."""

    def __call__(self, done: int, total: int, /) -> object: ...


class NamedProgress(Protocol):
    """Called with the name of the current item, the number done and the total."""

    def __call__(self, name: str, done: int, total: int, /) -> object: ...
