"""The type of file arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

#: Parameters for one or more input models; these may be given by name.
MODELS = frozenset(
    ("a", "b", "base", "baseline", "cut", "file", "files", "original", "source", "sources", "uncut")
)


class FileParameter(click.Path):
    """A path as typed, or the file that `hf://…` or `ollama://…` names.

    Existence is checked by the library, which gives a better message.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if isinstance(value, str) and "://" in value:
            from ..files.model_names import is_model_name, model_file  # rarely needed

            if is_model_name(value):
                if param is None or param.name not in MODELS:
                    self.fail("only an input model may be given by name; give a path", param, ctx)
                return model_file(value)
        return super().convert(value, param, ctx)


FILE = FileParameter()
