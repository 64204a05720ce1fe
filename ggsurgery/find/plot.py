"""Write the figures of a result as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.atomic import atomic_path, check_output
from ..files.installation import require
from ..present import raster, svg
from .figures import figures_of

#: Kinds of file that a plot can be written as; matplotlib draws all but SVG.
KINDS = (".png", ".svg", ".pdf")


def check_plot(path: Path, inputs: Sequence[Path | None] = (), *, force: bool = False) -> None:
    """Check a plot's path before any work is done for it.

    Args:
        inputs: other files that the command reads or writes.
        force: whether an existing file may be replaced.

    Raises:
        OutputError: a kind of file that is not known, an existing file, an input, no such folder.
        MissingExtraError: matplotlib is not installed.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise OutputError(
            "cannot plot as this kind of file",
            file=path,
            expected=" or ".join(KINDS),
            found=path.suffix,
        )
    check_output(path, [p for p in inputs if p is not None], force=force)
    if kind != ".svg":
        require("matplotlib.figure", "plot", f"a plot as {kind}")


def save_plot(result: Mapping[str, Any], path: Path, *, force: bool = False) -> None:
    """Draw the JSON document of `influence`, `scan` or `search`, atomically.

    Raises:
        OutputError: the file cannot be written, or has appeared meanwhile (without `force`).
    """
    figures = figures_of(result) or ()
    kind = path.suffix[1:].lower()
    data = svg.document(figures).encode() if kind == "svg" else raster.render(figures, kind)
    try:
        with atomic_path(path, force=force) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", file=path) from error
