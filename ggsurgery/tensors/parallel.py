"""Work on blocks with several threads: results in order, or sums over all blocks.

The work happens in kernels that release the GIL, so threads are enough.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
State = TypeVar("State")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """`function` of every item, in the order of the items, at most `2·threads` ahead."""
    if threads <= 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the consumer stops early or an item raised
        pool.shutdown(wait=True, cancel_futures=True)


def reduce_blocks(
    items: Iterable[Item],
    new_state: Callable[[], State],
    step: Callable[[State, Item], None],
    threads: int,
) -> list[State]:
    """Feed every item to the state of one of the threads; returns the states to be joined."""
    states = [new_state() for _ in range(max(1, threads))]
    if len(states) == 1:
        for item in items:
            step(states[0], item)
        return states
    iterator, lock = iter(items), threading.Lock()

    def drain(state: State) -> None:
        while True:
            with lock:
                item = next(iterator, done)
            if item is done:
                return
            step(state, item)  # type: ignore[arg-type]

    done = object()
    with ThreadPoolExecutor(len(states)) as pool:
        for future in [pool.submit(drain, state) for state in states]:
            future.result()
    return states
