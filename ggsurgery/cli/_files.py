"""The type of file arguments."""

from __future__ import annotations

from pathlib import Path

import click

#: A path as it was typed. That it cannot be opened is the library's to say, in its one line.
FILE = click.Path(path_type=Path, readable=False)
