"""Upload a bundle to a Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, GGSurgeryError
from ..files.installation import require
from ..files.model_names import CONNECTIONS
from ..files.system_errors import reading
from ..files.text import MAX_SMALL, read_text


class PushError(GGSurgeryError):
    """The hub refused, or could not be reached."""

    code = "push"


@dataclass(frozen=True)
class Pushed:
    """Where a bundle went."""

    repo: str
    url: str
    files: tuple[str, ...]
    n_bytes: int


def check_bundle(folder: Path) -> dict[str, str]:
    """Compare a bundle with its own SHA256SUMS; returns name → sha256.

    Raises:
        FormatError: no bundle, a file missing, changed, or not listed.
    """
    try:
        lines = read_text(folder / "SHA256SUMS", MAX_SMALL).splitlines()
    except FormatError:
        raise FormatError(
            "no bundle",
            file=folder,
            expected="a folder with SHA256SUMS",
            hint="Build one with: ggsurgery release FILE… --out DIR",
        ) from None
    sums = {}
    for line in lines:
        digest, gap, name = line.partition("  ")
        if not gap or Path(name).name != name:
            raise FormatError("damaged line", file=folder / "SHA256SUMS", found=line[:80])
        sums[name] = digest
    there = {p.name for p in folder.iterdir()} - {"SHA256SUMS"}
    for name in sorted(there ^ sums.keys()):
        what = "missing" if name in sums else "not listed in SHA256SUMS"
        raise FormatError(what, file=folder / name, hint="Build the bundle again.")
    for name, digest in sums.items():
        path = folder / name
        with reading(path), path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            raise FormatError(
                "the file is not the one that was bundled",
                file=folder / name,
                expected=digest,
                found=found,
                hint="Build the bundle again.",
            )
    return sums


def repo_of(folder: Path) -> str | None:
    """The repository that a bundle's card names; None where it names none."""
    try:
        found = json.loads((folder / "manifest.json").read_bytes())["repo"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = True,
    endpoint: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Check a bundle and upload it as a model repository.

    Args:
        repo: `org/name`; made if it is not there.
        private: whether a repository made here is private.
        endpoint: another hub than huggingface.co.
        token: None takes the one that `hf auth login` stored.

    Raises:
        FormatError: the bundle is not whole.
        MissingExtraError: huggingface_hub is not installed.
        PushError: the hub refuses or cannot be reached.
    """
    folder = Path(folder)
    sums = check_bundle(folder)
    hub = require("huggingface_hub", "hub", "release push")
    errors = require("huggingface_hub.errors", "hub", "release push")
    api = hub.HfApi(endpoint=endpoint, token=token)
    try:
        made = api.create_repo(repo, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=message or f"{len(sums) + 1} files of {folder.name}",
            allow_patterns=[*sums, "SHA256SUMS"],
        )
    except (errors.HfHubHTTPError, ValueError) as error:  # ValueError: no name for a repository
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise PushError(f"the hub refuses: {reason.strip()}", file=repo) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CONNECTIONS:
            raise
        raise PushError(f"the hub cannot be reached: {error}", file=repo) from error
    size = sum((folder / name).stat().st_size for name in sums)
    return Pushed(made.repo_id, str(made), (*sorted(sums), "SHA256SUMS"), size)
