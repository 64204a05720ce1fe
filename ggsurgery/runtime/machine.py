"""The machine's properties: threads, CPU features, cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

#: CPU features that decide which of ggml's matrix paths are taken.
INTERESTING = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


@cache
def cpu() -> tuple[str, tuple[str, ...]]:
    """The CPU's name and its feature flags, as the operating system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), ()
    facts: dict[str, str] = {}
    for line in lines:  # the first core's entry represents all
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or facts.get("CPU part") or platform.machine()
    return name, tuple(sorted((facts.get("flags") or facts.get("Features") or "").split()))


def cpu_features() -> tuple[str, ...]:
    """Those of the CPU's flags that matter to ggml."""
    return tuple(f for f in INTERESTING if f in cpu()[1])


def trim_memory() -> None:
    """Give freed memory back to the system; glibc keeps tens of megabytes of a freed model."""
    with suppress(AttributeError, OSError, TypeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)


def cpu_digest() -> str:
    """A short name of this kind of CPU: equal where the same code paths are taken."""
    name, flags = cpu()
    text = f"{platform.system()} {platform.machine()} {name} {' '.join(flags)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """The user's folder for things that can be made again (not created here)."""
    if found := os.environ.get("GGSURGERY_CACHE"):
        return Path(found)
    if found := os.environ.get("XDG_CACHE_HOME"):
        return Path(found) / "ggsurgery"
    if platform.system() == "Windows" and (found := os.environ.get("LOCALAPPDATA")):
        return Path(found) / "ggsurgery" / "Cache"
    return Path.home() / ".cache" / "ggsurgery"
