"""Termination signals raise KeyboardInterrupt, wherever the program is."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A termination signal: handled like Ctrl-C, so that temporary files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stop_like_ctrl_c() -> None:
    """Make SIGTERM and SIGHUP raise, and keep such exceptions from being lost."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A signal that the parent ignores (nohup) stays ignored.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)
    if sys.unraisablehook is sys.__unraisablehook__:  # not one of the caller's
        sys.unraisablehook = _ask_again


def ignore_signals() -> None:
    """Ignore further signals, so that an ending program can clean up."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and threading.current_thread() is threading.main_thread():
            signal.signal(number, signal.SIG_IGN)


def _ask_again(lost: Any) -> None:
    """Python drops what is raised inside a destructor or a C library's callback.

    The program would then ignore the signal, so it is sent again.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = lost.exc_value.number if isinstance(lost.exc_value, Stopped) else signal.SIGINT
    again = threading.Thread(
        target=_send_after, args=(sys._getframe(), signal.Signals(number)), daemon=True
    )
    with suppress(RuntimeError):  # too late for a thread: the program is ending anyway
        again.start()


def _send_after(hook: FrameType, number: signal.Signals) -> None:
    """Send the signal after the hook has returned: Python drops exceptions raised inside it,
    too."""
    main = threading.main_thread().ident
    while main is not None and _runs(hook, sys._current_frames().get(main)):
        time.sleep(0.001)
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)  # interrupts a waiting system call
    else:
        _thread.interrupt_main(number)


def _runs(hook: FrameType, frame: FrameType | None) -> bool:
    while frame is not None and frame is not hook:
        frame = frame.f_back
    return frame is hook
