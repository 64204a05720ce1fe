"""How much memory a file takes, measured by loading it."""

from __future__ import annotations

from pathlib import Path

from ..errors import EngineError
from .engine import Engine


def peak_memory(
    path: str | Path, n_ctx: int = 2048, n_threads: int | None = None
) -> dict[str, int]:
    """Load a file, read a prompt of 512 tokens, and return the peak memory.

    Made to be run by `runtime.worker.run`, so that the process holds nothing else.

    Returns:
        `bytes`: the growth of this process's peak resident memory (mapped weights count as far
        as they were touched, which is wholly); `n_ctx`: the context it was measured with.

    Raises:
        EngineError: the machine reports no memory figures (it has no /proc).
    """
    before = _resident("VmRSS")
    with Engine.open(path, n_ctx=n_ctx, n_threads=n_threads) as engine:
        engine.head_seen = True  # embedding models take memory, too
        token = engine.bos if engine.bos is not None else 0
        engine.decode([token] * min(512, n_ctx // 2), logits="last")
        return {"bytes": _resident("VmHWM") - before, "n_ctx": n_ctx}


def _resident(field: str) -> int:
    """A memory figure of this process in bytes (proc(5), status)."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return int(text.split(f"{field}:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        raise EngineError("this machine does not report the memory of a process") from None
