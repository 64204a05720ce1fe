"""A progress bar on standard error, shown only if the work takes over two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def progress_bar(what: str, unit: str = "it") -> Iterator[Callable[[int, int], None]]:
    """A callback `(done, total)` that drives the bar.

    Example:
        with progress_bar("perplexity", "chunk") as progress:
            perplexity(engine, text, progress=progress)
    """
    with tqdm(desc=what, unit=unit, delay=2, leave=False, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


@contextmanager
def named_progress_bar(unit: str = "it") -> Iterator[Callable[[str, int, int], None]]:
    """The same for several pieces of work one after the other: `(name, done, total)`."""
    with tqdm(unit=unit, delay=2, leave=False, disable=None) as bar:
        current: list[Any] = [None]

        def update(name: str, done: int, total: int) -> None:
            if name != current[0]:
                current[0] = name
                bar.reset(total)
                bar.set_description(name)
            bar.update(done - bar.n)

        yield update
