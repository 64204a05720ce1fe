"""The provenance of every result: its kind, the model, the text, the settings, the versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...files.digest import sha256_of_file
from ...files.piped import kept
from ...ggufio.reader import Source
from .facts import model_facts
from .score import versions

VERSION = 1


def envelope(
    kind: str,
    model: Path | None,
    settings: Mapping[str, Any],
    text: Path | None = None,
    source: Source | None = None,
) -> dict[str, Any]:
    """The fields in front of a result's own, for `--json`.

    Args:
        kind: the command.
        model: None of a result that is of no model file.
        settings: those that change the figures; None is left out.
        source: the model, where it is open already; its header is not read again.

    Raises:
        FormatError: the text cannot be read.
    """
    return {
        "ggsurgery": kind,
        "version": VERSION,
        "model": None if model is None else asdict(model_facts(model, source=source)),
        "text": None if text is None else {"file": text.name, **digest_of(text)},
        "settings": {k: v for k, v in settings.items() if v is not None},
        "versions": versions(),
    }


def digest_of(path: Path) -> dict[str, str]:
    """sha256 of a text or a file of questions; nothing of a folder.

    Raises:
        FormatError: the file cannot be read.
    """
    return {} if path.is_dir() else {"sha256": sha256_of_file(kept(path))}
