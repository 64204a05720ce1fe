"""Signals that ask to end arrive as KeyboardInterrupt, wherever the program happens to be."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from contextlib import suppress
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal that asks to end: handled like Ctrl-C, so that temporary files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stop_like_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP raise, and no such exception get lost."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A signal that the parent has switched off (nohup) stays off.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)
    if sys.unraisablehook is sys.__unraisablehook__:  # not one of the caller's
        sys.unraisablehook = _ask_again


def ignore_signals() -> None:
    """Of a program that is ending: let no further signal interrupt its cleaning."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and threading.current_thread() is threading.main_thread():
            signal.signal(number, signal.SIG_IGN)


def _ask_again(lost: Any) -> None:
    """Python drops what is raised inside a destructor or a C library's callback.

    A program that was asked to end there would go on; so it is asked once more, a moment later.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = lost.exc_value.number if isinstance(lost.exc_value, Stopped) else signal.SIGINT
    again = threading.Timer(0.01, _thread.interrupt_main, (number,))
    again.daemon = True
    with suppress(RuntimeError):  # too late for a thread: the program is ending anyway
        again.start()
