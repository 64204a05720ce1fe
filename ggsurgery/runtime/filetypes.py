"""The file types (`llama_ftype`) that llama.cpp quantizes to, by the names it prints."""

from __future__ import annotations

from functools import cache

from ..errors import EngineError, did_you_mean
from . import binding

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

#: In the enum, but `llama_model_quantize` has no recipe for them.
NOT_MADE = {"GUESSED", "NVFP4"}


@cache
def file_types() -> dict[str, int]:
    """Name → `llama_ftype`: `F32`, `F16`, `Q8_0`, `Q4_K_M`, `IQ2_XS` …"""
    module = binding.llama()
    found: dict[str, int] = {}
    for name in dir(module):
        for prefix in ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_", "LLAMA_FTYPE_"):
            if name.startswith(prefix):
                found.setdefault(name.removeprefix(prefix), int(getattr(module, name)))
                break
    return {k: v for k, v in sorted(found.items(), key=lambda i: i[1]) if k not in NOT_MADE}


def file_type(name: str) -> tuple[str, int]:
    """The canonical name and number of a file type, in any case; aliases resolved.

    Raises:
        EngineError: there is none of that name; offers the nearest.
    """
    upper = name.strip().upper()
    upper = ALIASES.get(upper, upper)
    known = file_types()
    if upper not in known:
        near = did_you_mean(upper, [*known, *ALIASES], n=3, cutoff=0.4)
        raise EngineError(
            f"unknown quantization type {name!r}",
            hint=" ".join(filter(None, (near, f"Known: {', '.join(known)}."))),
        )
    return upper, known[upper]


def file_type_name(number: int) -> str:
    """The name of a `general.file_type` value."""
    for name, value in file_types().items():
        if value == number:
            return name
    return f"type {number}"
