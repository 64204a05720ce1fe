"""The state of an interrupted training, kept beside the output until it is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import FormatError, PlanError
from ...files.atomic import atomic_path
from .network import load_torch


def checkpoint_path(out: str | Path) -> Path:
    """Where the training of an output keeps its state."""
    return Path(out).with_name(f"{Path(out).name}.checkpoint")


def save(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write the state, in place of an earlier one.

    Args:
        key: identifies this training.
    """
    with atomic_path(path, force=True) as temporary:
        load_torch().save({"key": key, **state}, temporary)


def load(path: Path, key: str, device: str) -> dict[str, Any] | None:
    """The state that `save` wrote; None without a file.

    Raises:
        PlanError: it is of another training.
        FormatError: the file is not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        found = load_torch().load(path, map_location=device, weights_only=True)
        if not isinstance(found, dict) or not isinstance(found.get("key"), str):
            raise ValueError("no key")
    except Exception as error:  # pickle, zipfile and torch raise what they come across
        raise FormatError(
            "not a checkpoint of `ggsurgery distil`",
            file=path,
            found=str(error)[:120],
            hint="Remove the file; training then starts at the beginning.",
        ) from error
    if found["key"] != key:
        raise PlanError(
            "the checkpoint belongs to a training with other inputs or options",
            file=path,
            hint="Repeat the command that it belongs to, or remove the file to start over.",
        )
    return found


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals that ask to end wait until the block is done.

    Half an update of the weights could not be continued. Threads other than the main one get no
    signals, and there nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [n for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    waiting: list[tuple[int, Any]] = []
    before = {}
    for name in names:
        number = getattr(signal, name)
        before[number] = signal.signal(number, lambda *what: waiting.append(what))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting and callable(handler := before[waiting[0][0]]):
            handler(*waiting[0])
