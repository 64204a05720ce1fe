"""The finished steps of a run: one JSON file in its folder, with one line per step.

A step is keyed by everything its result depends on: its settings, the keys of the steps
before it, the versions of the tools. It is done if the key is the same and its files are unchanged.
So a second run does nothing, and a change redoes what follows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import FormatError, OutputError
from ..files.atomic import atomic_path
from ..files.fields import FieldError, Fields, dict_of, list_of, read_json, text, whole

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock
    fcntl = None  # type: ignore[assignment]

NAME = ".ggsurgery-run.json"


def key_of(step: str, settings: Any, on: Sequence[str], **tools: str) -> str:
    """The key of a step: sha256 (hex) of all that its result depends on."""
    facts = {
        "step": step,
        "settings": settings,
        "on": list(on),
        "tools": {"ggsurgery": __version__, **tools},
    }
    line = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(line.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Done:
    """A finished step: its key, its files (relative path → size, mtime in ns), its figures."""

    key: str
    files: Mapping[str, tuple[int, int]]
    result: Any = None


def _done(data: Any) -> Done:
    fields = Fields(data)
    stamps = fields.get("files", dict_of(list_of(whole)))
    for name, numbers in stamps.items():
        if len(numbers) != 2:
            raise FieldError("size and time", f"{len(numbers)} numbers", f"files.{name}")
    files = {name: (size, time) for name, (size, time) in stamps.items()}
    return Done(fields.get("key", text), files, data.get("result"))


class State:
    """The finished steps of a run's folder; every change is on the disk at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / NAME
        self._steps: dict[str, Done] = {}
        self._begun: set[str] = set()
        try:
            document = Fields(read_json(self._path))
            self._steps = document.get("steps", dict_of(_done))
            self._begun = set(document.get("begun", list_of(text)))
        except FormatError:
            self._steps = {}  # none or damaged: nothing is known to be done

    def done(self, name: str, key: str) -> Done | None:
        """The step if it was done under this key and its files are as it left them."""
        found = self._steps.get(name)
        if found is None or found.key != key:
            return None
        same = all(stamp(self.folder / f) == seen for f, seen in found.files.items())
        return found if same else None

    def owns(self, path: Path) -> bool:
        """Whether a file was made by a step of this run, so that it may be replaced."""
        relative = str(path.relative_to(self.folder))
        return relative in self._begun or any(relative in s.files for s in self._steps.values())

    def begin(self, files: Sequence[Path]) -> None:
        """Claim the files of a step before it makes them, for a run killed in between."""
        claimed = {str(f.relative_to(self.folder)) for f in files}
        if not claimed <= self._begun:
            self._begun |= claimed
            self._write()

    def record(self, name: str, key: str, files: Sequence[Path], result: Any = None) -> Done:
        """Remember a finished step."""
        stamps = {str(f.relative_to(self.folder)): stamp(f) for f in files}
        found = Done(key, {f: s for f, s in stamps.items() if s is not None}, result)
        self._steps[name] = found
        self._write()
        return found

    def _write(self) -> None:
        steps = {
            n: {"key": s.key, "files": s.files, "result": s.result} for n, s in self._steps.items()
        }
        with atomic_path(self._path, force=True) as temporary:
            document = {"ggsurgery": "run", "steps": steps, "begun": sorted(self._begun)}
            written = json.dumps(document, indent=1, ensure_ascii=False)
            temporary.write_text(written, encoding="utf-8", errors="backslashreplace")


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file, None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the same folder.

    Raises:
        OutputError: another run is at work there.
    """
    if fcntl is None:  # pragma: no cover
        yield
        return
    with (folder / ".ggsurgery-run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                "another run is at work in this folder",
                file=folder,
                hint="Wait for it, or choose another folder with --out.",
            ) from None
        yield
