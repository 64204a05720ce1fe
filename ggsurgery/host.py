"""Facts about the machine that every part may use: threads, and the terminal's abilities."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import EngineError

#: Overrides the number of threads.
THREADS = "GGSURGERY_THREADS"


def n_threads() -> int:
    """How many threads this process may use; `GGSURGERY_THREADS` overrides it.

    Raises:
        EngineError: the variable holds something else than a positive integer.
    """
    wanted = os.environ.get(THREADS, "").strip()
    if wanted:
        if not wanted.isdecimal() or int(wanted) == 0:
            raise EngineError(f"{THREADS} must be a positive integer", found=wanted)
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Set the number of threads of this process and its children, like `GGSURGERY_THREADS`.

    Args:
        count: None changes nothing.
    """
    before = os.environ.get(THREADS)
    if count is not None:
        os.environ[THREADS] = str(count)
    try:
        yield
    finally:
        if count is not None:
            os.environ.pop(THREADS, None)
            os.environ.update({} if before is None else {THREADS: before})


def plain_terminal() -> bool:
    """Whether the user asked for text without colours: NO_COLOR (no-color.org), TERM=dumb."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
