"""Folders that are beside the package in the repository and inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

from ..errors import GGSurgeryError
from .installation import install_command


def shipped(name: str) -> Path:
    """The folder `Modelfile.templates` or `models`, at its place in this installation.

    A wheel carries it inside the package; an editable install and a checkout have it beside.

    Raises:
        GGSurgeryError: the installation lacks it.
    """
    package = Path(__file__).parents[1]
    for place in (package / name, package.parent / name):
        if place.is_dir():
            return place
    raise GGSurgeryError(
        f"the folder {name} is missing from this installation",
        hint=f"Install ggsurgery again with --force-reinstall: {install_command()}",
    )
