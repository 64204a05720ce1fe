"""A progress bar on standard error, shown only if the work takes over two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class Bar(tqdm):  # type: ignore[type-arg]
    """A bar that stays away for two seconds, leaves no line behind and keeps out of log files."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"delay": 2, "leave": False, "disable": None, **options})

    def close(self) -> None:
        # Ctrl-C inside the constructor leaves half a bar, which Python's garbage collector
        # closes: without this it would print a traceback.
        if hasattr(self, "pos"):
            super().close()


def bytes_bar(what: str, nbytes: int) -> Bar:
    """A bar over bytes read or written; drive it with its `update`."""
    return Bar(total=nbytes, unit="B", unit_scale=True, desc=what)


@contextmanager
def progress_bar(what: str, unit: str = "it") -> Iterator[Callable[[int, int], None]]:
    """A callback `(done, total)` that drives the bar.

    Example:
        with progress_bar("perplexity", "chunk") as progress:
            perplexity(engine, text, progress=progress)
    """
    with Bar(desc=what, unit=unit) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


@contextmanager
def named_progress_bar(unit: str = "it") -> Iterator[Callable[[str, int, int], None]]:
    """The same for several pieces of work one after the other: `(name, done, total)`."""
    with Bar(unit=unit) as bar:
        current: list[Any] = [None]

        def update(name: str, done: int, total: int) -> None:
            if name != current[0]:
                current[0] = name
                bar.reset(total)
                bar.set_description(name)
            bar.update(done - bar.n)

        yield update
