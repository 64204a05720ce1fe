"""Run a function in a child process, so that a crash in llama.cpp becomes an error.

    result = worker.run(measure, "model.gguf", progress=bar)

The child is a fresh Python: it does not import the caller's `__main__`, and it dies with
its parent. What passes between them, framed by length:

    parent → stdin of the child     pickle of (function, args, kwargs, wants progress)
    child → stdout, before fd 1 is redirected
        ("progress", args) …  then  ("result", value) or ("error", exception)
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from ..child import Child, receive, send, streams
from ..errors import EngineError, GGSurgeryError

T = TypeVar("T")


def run(
    function: Callable[..., T],
    *args: Any,
    timeout: float | None = None,
    progress: Callable[..., None] | None = None,
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
        killed = False
        with child.deadline(timeout):
            try:
                with contextlib.suppress(BrokenPipeError):  # crashed early: its status tells
                    send(child.questions, payload)
                kind, value = _receive_all(child.answers, progress)
            except BaseException:  # Ctrl-C, or a progress callback that raised
                killed = True
                raise
            finally:
                status = child.close(kill=killed)
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
    return EngineError(
        f"llama.cpp crashed ({name})" + (f", saying: {words[-1][:300]}" if words else ""),
        file=file,
        hint="The file may be damaged or of an architecture this version cannot run; "
        "`ggsurgery verify` checks the file and `ggsurgery doctor` the machine.",
    )


def _receive_all(stream: IO[bytes], progress: Callable[..., None] | None) -> tuple[str, Any]:
    while True:
        try:
            kind, value = pickle.loads(receive(stream))
        except EOFError:
            return "gone", None
        if kind != "progress":
            return kind, value
        if progress is not None:
            progress(*value)


def _child() -> None:
    """The child's main: answers on the original fd 1, anything printed goes to stderr."""
    questions, answers = streams()
    function, args, kwargs, wants_progress = pickle.loads(receive(questions))
    threading.Thread(target=_die_with_parent, args=(questions,), daemon=True).start()
    if wants_progress:
        kwargs["progress"] = _Progress(answers)
    try:
        answer: tuple[str, Any] = ("result", function(*args, **kwargs))
        data = pickle.dumps(answer)
    except GGSurgeryError as error:
        data = pickle.dumps(("error", error))
    except MemoryError:
        data = pickle.dumps(("error", EngineError("not enough memory")))
    except Exception as error:  # noqa: BLE001 - crosses to the parent, which raises it
        data = _pickled(error)
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
    os._exit(1)


class _Progress:
    """Sends calls to the parent, at most 20 a second, the last of a total always."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.last = 0.0

    def __call__(self, *args: Any) -> None:
        now = time.monotonic()
        finished = len(args) > 1 and args[0] == args[1]
        if now - self.last >= 0.05 or finished:
            self.last = now
            send(self.stream, pickle.dumps(("progress", args)))
