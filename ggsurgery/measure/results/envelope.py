"""What every result says of itself: its kind, the model, the text, the settings, the versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...files.text import read_bytes
from ...ggufio.reader import Source
from .facts import model_facts
from .score import versions

VERSION = 1


def envelope(
    kind: str,
    model: Path,
    settings: Mapping[str, Any],
    text: Path | None = None,
    source: Source | None = None,
) -> dict[str, Any]:
    """The fields in front of a result's own, for `--json`.

    Args:
        kind: the command.
        settings: those that change the figures; None is left out.
        source: the model, where it is open already; its header is not read again.

    Raises:
        FormatError: the text cannot be read.
    """
    digest = None if text is None else hashlib.sha256(read_bytes(text)).hexdigest()
    return {
        "ggsurgery": kind,
        "version": VERSION,
        "model": asdict(model_facts(model, source=source)),
        "text": None if text is None else {"file": text.name, "sha256": digest},
        "settings": {k: v for k, v in settings.items() if v is not None},
        "versions": versions(),
    }
