"""How this installation was made, so that a hint names an install command that works."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module, metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import GGSurgeryError

NAME = "ggsurgery"


def install_command(extra: str = "") -> str:
    """The pip command that adds an extra to this installation (or repeats it, without one).

    A source tree, a folder, a wheel and a repository are named as pip was given them
    (direct_url.json, PEP 610). If that place no longer exists, the extra's own packages are named.
    """
    root = Path(__file__).parents[2]
    if (root / "pyproject.toml").is_file():
        here = "." if root == Path.cwd() else str(root)
        return f"pip install -e {_quoted(here, extra)}"
    origin = _origin()
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        facts = origin["vcs_info"]
        return _pip(f"{_named(extra)} @ {facts['vcs']}+{url}@{facts['commit_id']}")
    if url.startswith("file:"):
        place = Path(unquote(urlsplit(url).path))
        if place.exists():
            return f"pip install {_quoted(str(place), extra)}"
        needed = _requirements(extra)
        return f"pip install {' '.join(map(shlex.quote, needed))}" if needed else _pip(NAME)
    return _pip(f"{_named(extra)} @ {url}" if url else _named(extra))


def _named(extra: str) -> str:
    return f"{NAME}[{extra}]" if extra else NAME


def _pip(requirement: str) -> str:
    return f"pip install {shlex.quote(requirement)}"


def _quoted(place: str, extra: str) -> str:
    return shlex.quote(f"{place}[{extra}]" if extra else place)


def _origin() -> dict[str, Any]:
    """The document of PEP 610; empty where the package came from an index."""
    try:
        text = metadata.distribution(NAME).read_text("direct_url.json")
        found = json.loads(text or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _requirements(extra: str) -> list[str]:
    """The packages that an extra installs, from the metadata: `lm-eval>=0.4.9`."""
    found = []
    for line in metadata.requires(NAME) or ():
        requirement, _, marker = line.partition(";")
        if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
            found.append(requirement.strip())
    return found


def require(module: str, extra: str, what: str, package: str | None = None) -> Any:
    """Import a module that an extra installs.

    Args:
        what: the feature that needs it, for the message.
        package: the package name for pip, if it differs from the module's.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        name = package or module.partition(".")[0]
        raise MissingExtraError(name, extra, what) from None


class MissingExtraError(GGSurgeryError):
    """An optional package is needed; the message names the extra to install."""

    code = "missing-extra"

    def __init__(self, package: str, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs the package {package}, which is not installed",
            hint=f"Install it with: {install_command(extra)}",
        )
