"""Run a function in a child process, so that a crash in llama.cpp becomes an error.

    result = worker.run(measure, "model.gguf", progress=bar)

The child is a fresh Python: it does not import the caller's `__main__`, and it ends with its
parent. The messages between them, framed by length:

    parent → stdin of the child     pickle of (function, args, kwargs, wants progress)
    child → stdout, before fd 1 is redirected
        ("temporary", path, whether it is made or gone), ("progress", args) …
        then  ("result", value) or ("error", exception)

What the child made for a while and could not remove, because it crashed or was ended, the
parent removes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import EngineError, GGSurgeryError
from ..files import temporary
from .child import Child, receive, send, streams

T = TypeVar("T")

#: How the error of a child that died begins.
CRASHED = "llama.cpp crashed"


def run(
    function: Callable[..., T],
    *args: Any,
    timeout: float | None = None,
    progress: Callable[..., object] | None = None,
    file: str | Path | None = None,
    **kwargs: Any,
) -> T:
    """Call `function(*args, **kwargs)` in a child process and return its result.

    Args:
        function: importable by name (not from `__main__`); arguments and result must pickle.
        timeout: seconds after which the child is killed; None waits for ever.
        progress: if given, the function gets a `progress` of its own whose calls arrive here.
        file: the file to name if the child crashes; the first argument if it is a path.

    Raises:
        EngineError: the child crashed (names the file and the signal) or took too long.
        Exception: whatever the function raised.
    """
    if file is None and args and isinstance(args[0], str | Path):
        file = args[0]
    payload = pickle.dumps((function, args, kwargs, progress is not None))
    with tempfile.TemporaryFile() as noise:
        child = Child(__name__, "_child", noise)
        inbox, killed = _Inbox(child.answers), False
        with child.deadline(timeout):
            try:
                with contextlib.suppress(BrokenPipeError):  # crashed early: its status shows it
                    send(child.questions, payload)
                kind, value = inbox.answer(progress)
            except BaseException:  # Ctrl-C, or a progress callback that raised
                killed = True
                raise
            finally:
                status = child.end(kill=killed)
                inbox.close()
        if kind == "result":
            return value  # type: ignore[no-any-return]
        if kind == "error":
            raise value
        if child.late:
            raise EngineError(f"took longer than {timeout:g} s", file=file)
        noise.seek(0)
        raise _crash(status, noise.read().decode("utf-8", "replace"), file)


def _crash(status: int, noise: str, file: str | Path | None) -> EngineError:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
    else:
        name = f"exit code {status}"
    last = [line.strip() for line in noise.splitlines() if line.strip()]
    # llama.cpp's own words: a failed assertion is the best explanation there is
    words = [line for line in last if "GGML_ASSERT" in line or "rror" in line] or last[-1:]
    last_line = re.sub(r"\S*/(?=[^/\s]+:\d+: )", "", words[-1])[:300] if words else ""
    return EngineError(
        f"{CRASHED} ({name})" + (f", saying: {last_line}" if last_line else ""),
        file=file,
        hint="The file may be damaged or of an architecture this version cannot run; "
        "`ggsurgery verify` checks the file and `ggsurgery doctor` the machine.",
    )


class _Inbox:
    """Reads a child's messages in a thread of its own, which no signal interrupts."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._temporary: set[Path] = set()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while True:
                kind, value = pickle.loads(receive(self._stream))
                if kind == "temporary":
                    self._note(*value)
                else:
                    self._messages.put((kind, value))
        except Exception as error:  # noqa: BLE001 - the thread that waits raises it
            gone = isinstance(error, EOFError)
            self._messages.put(("gone", None) if gone else ("error", error))

    def _note(self, path: Path, exists: bool) -> None:
        if exists:
            self._temporary.add(path)
            temporary.enter(path)
        else:
            self._temporary.discard(path)
            temporary.forget(path)

    def answer(self, progress: Callable[..., object] | None) -> tuple[str, Any]:
        """The child's result or error, or ("gone", None); forwards progress."""
        while True:
            kind, value = self._messages.get()
            if kind != "progress":
                return kind, value
            if progress is not None:
                progress(*value)

    def close(self) -> None:
        """Read what remains of an ended child, and remove the files it left."""
        self._thread.join(timeout=10)
        self._stream.close()
        for path in list(self._temporary):
            temporary.remove(path)


def _child() -> None:
    """The child's main: answers on the original fd 1, anything printed goes to stderr."""
    questions, answers = streams()
    sending = threading.Lock()

    def tell(message: tuple[str, Any]) -> None:
        data = pickle.dumps(message)
        with sending:
            send(answers, data)

    function, args, kwargs, wants_progress = pickle.loads(receive(questions))
    temporary.listener.announce = lambda *what: tell(("temporary", what))
    threading.Thread(target=_die_with_parent, args=(questions,), daemon=True).start()
    if wants_progress:
        kwargs["progress"] = _Progress(tell)
    try:
        answer: tuple[str, Any] = ("result", function(*args, **kwargs))
        data = pickle.dumps(answer)
    except GGSurgeryError as error:
        data = pickle.dumps(("error", error))
    except MemoryError:
        data = pickle.dumps(("error", EngineError("not enough memory")))
    except Exception as error:  # noqa: BLE001 - crosses to the parent, which raises it
        data = _pickled(error)
    temporary.remove_all()
    with sending:
        send(answers, data)
    answers.close()
    os._exit(0)  # skips llama.cpp's static destructors, which may crash after the work is done


def _pickled(error: Exception) -> bytes:
    try:
        data = pickle.dumps(("error", error))
        pickle.loads(data)
        return data
    except Exception:  # noqa: BLE001 - some exceptions do not survive pickling
        return pickle.dumps(("error", EngineError(f"{type(error).__name__}: {error}")))


def _die_with_parent(questions: IO[bytes]) -> None:
    questions.read()  # returns when the parent closes the pipe or dies
    temporary.remove_all()
    os._exit(1)


class _Progress:
    """Sends calls to the parent, at most 20 a second, the last of a total always."""

    def __init__(self, tell: Callable[[tuple[str, Any]], object]) -> None:
        self.tell = tell
        self.last = 0.0

    def __call__(self, *args: Any) -> None:
        now = time.monotonic()
        finished = len(args) > 1 and args[0] == args[1]
        if now - self.last >= 0.05 or finished:
            self.last = now
            self.tell(("progress", args))
