"""The licence of a release (`--license`, `release.license`): a file with the text, or an
identifier.

The hub's model cards take the identifiers of `hub`; any other SPDX identifier becomes `license:
other` on a card, with its name and a link.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..errors import FormatError, did_you_mean


@cache
def hub() -> frozenset[str]:
    """Identifiers that huggingface.co accepts in a model card (docs/hub/repositories-licenses)."""
    path = Path(__file__).parent / "data" / "hub_licences.txt"
    return frozenset(path.read_text(encoding="utf-8").split())


def licence_of(name: str, file: Path) -> Path | str:
    """The file that holds the licence's text, or the identifier.

    Args:
        name: as the user wrote it.
        file: the same as a path; a file of that name comes first.

    Returns:
        The path, the hub's identifier in lower case, or an SPDX expression in its own spelling.

    Raises:
        FormatError: neither a file nor an identifier.
    """
    if file.is_file():
        return file
    if name.lower() in hub():
        return name.lower()
    found = _spdx(name)
    if found is not None:
        return found
    raise FormatError(
        "neither a file nor a known licence",
        file=name,
        expected="a file with the licence's text, an SPDX identifier (Apache-2.0), or one of the "
        "hub (gemma, llama3.1)",
        hint=did_you_mean(name.lower(), hub()),
    )


def card_fields(licence: str | None) -> dict[str, str]:
    """The fields of a model card's front matter that state a licence."""
    if not licence:
        return {}
    if licence.lower() in hub():
        return {"license": licence.lower()}
    fields = {"license": "other", "license_name": licence.lower().replace(" ", "-")}
    if _spdx(licence) is not None and " " not in licence:
        fields["license_link"] = f"https://spdx.org/licenses/{_spdx(licence)}.html"
    return fields


def _spdx(name: str) -> str | None:
    try:
        from packaging.licenses import canonicalize_license_expression
    except ImportError:  # packaging comes with huggingface_hub, perhaps an older one
        return None
    try:
        return str(canonicalize_license_expression(name))
    except ValueError:
        return None
