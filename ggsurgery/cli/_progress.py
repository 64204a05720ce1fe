"""Progress on standard error: a bar on a terminal, else a plain line every ten seconds.

The bar appears only if the work takes over two seconds, and is erased at the end.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from tqdm import tqdm

from ..errors import printable

#: Seconds between two plain lines.
EVERY_S = 10.0


class Bar(tqdm):  # type: ignore[type-arg]
    """A bar for work of over two seconds; plain lines if standard error is not a terminal."""

    def __init__(self, **options: Any) -> None:
        if options.get("desc"):
            options["desc"] = printable(options["desc"])
        self._lines: PlainLines | None = None
        super().__init__(**{"delay": 2, "leave": False, "disable": None, **options})
        if self.disable:
            self._lines = PlainLines(
                options.get("desc") or "",
                options.get("unit", "it"),
                self.total,
                scaled=bool(options.get("unit_scale")),
            )

    def update(self, n: float | None = 1) -> bool | None:
        if self._lines is None:
            return super().update(n)
        self.n += n or 0
        self._lines.done, self._lines.total = self.n, self.total
        return None

    def reset(self, total: float | None = None) -> None:
        super().reset(total)
        if self._lines is not None:
            self._lines.restart(self.total)

    def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
        super().set_description(desc, refresh)
        if self._lines is not None:
            self._lines.what = desc or ""

    def close(self) -> None:
        if (lines := getattr(self, "_lines", None)) is not None:
            lines.stop()
        # Ctrl-C inside the constructor leaves half a bar, which Python's garbage collector
        # closes: without this it would print a traceback.
        if hasattr(self, "pos"):
            super().close()


class PlainLines:
    """Print a line every ten seconds until `stop`, even if a step reports nothing."""

    def __init__(self, what: str, unit: str, total: float | None, *, scaled: bool = False) -> None:
        self.what, self.unit, self.scaled = what, unit, scaled
        self.restart(total)
        # A queue and not an Event: `put` never waits for a lock, which a daemon thread may hold
        # for ever once the interpreter has begun to shut down.
        self._stopped: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._run, args=(self._stopped,), daemon=True).start()

    def restart(self, total: float | None) -> None:
        """Count from 0 again, up to `total`."""
        self.done, self.total, self.began = 0.0, total, time.monotonic()

    def stop(self) -> None:
        self._stopped.put(None)

    def _run(self, stopped: SimpleQueue[None]) -> None:
        while True:
            with suppress(Empty):
                return stopped.get(timeout=EVERY_S)
            with suppress(OSError, ValueError):  # a closed pipe
                print(self.line(time.monotonic() - self.began), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """The progress after some seconds, and the time left at that pace."""
        what = self.what or "working"
        if not self.total or not self.done:
            return f"{what}: {for_people(seconds)} so far"
        left = seconds * (self.total - self.done) / self.done
        share = f"{self.done / self.total:.0%}"
        if not self.scaled and self.unit != "it":
            share += f", {self.done:.0f} of {self.total:.0f} {self.unit}s"
        return f"{what}: {share}, about {for_people(max(0.0, left))} left"


def for_people(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def bytes_bar(what: str, nbytes: int) -> Bar:
    """A bar over bytes read or written; drive it with its `update`."""
    return Bar(total=nbytes, unit="B", unit_scale=True, desc=what)


@contextmanager
def progress_bar(what: str, unit: str = "it") -> Iterator[Callable[..., None]]:
    """A callback `(done, total)` that drives the bar; a third argument is shown beside its name.

    Example:
        with progress_bar("perplexity", "chunk") as progress:
            perplexity(engine, text, progress=progress)
    """
    with Bar(desc=what, unit=unit) as bar:

        def update(done: int, total: int, facts: str | None = None) -> None:
            bar.total = total
            if facts is not None:
                bar.set_description(f"{what}, {facts}", refresh=False)
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
                bar.set_description(printable(name))
            bar.update(done - bar.n)

        yield update
