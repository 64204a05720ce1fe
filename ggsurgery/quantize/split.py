"""A quantized model in several files: llama.cpp writes one, which is then split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..files import temporary
from ..files.progress import Progress
from ..runtime.quantize import Planned
from ..runtime.quantize_plan import QuantizeResult
from ..surgery.write import split_file


def make_split(
    planned: Planned,
    out: Path,
    max_bytes: int,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Quantize and split; for a moment the disk holds both the whole file and its parts.

    Returns:
        The result, with the first file as its path.

    Raises:
        OutputError: a file exists, is the input, or the disk is full.
    """
    with temporary.Folder("split", place=out.parent) as folder:
        whole = folder / out.name
        result = planned.make(whole, progress=progress)
        paths = split_file(whole, out, max_bytes, force=force)
    return replace(result, path=paths[0])
