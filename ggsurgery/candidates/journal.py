"""A journal of measurements: one JSON line each, so that nothing is measured twice.

The first line says what was measured and on what; a line `started` without its result is
the candidate that crashed the process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import FormatError, OutputError

#: What the keys of a subject are called where two of them differ.
TOPICS = {
    "windows": "text",
    "source": "source file",
    "questions": "set of questions",
    "what": "kind of work",
}


class Journal:
    """Results by digest, in a file that grows line by line.

    Args:
        path: the file; made if it does not exist.
        subject: what the results are about; another one in the file is refused.

    Raises:
        FormatError: the file is no journal, or one of something else.
    """

    def __init__(self, path: str | Path, subject: dict[str, Any]) -> None:
        self.path = Path(path)
        self.results: dict[str, dict[str, Any]] = {}
        self.unfinished: dict[str, dict[str, Any]] = {}
        if self.path.exists() and self.path.stat().st_size:
            self._read(subject)
        else:
            self._append({"subject": subject})

    def _read(self, subject: dict[str, Any]) -> None:
        lines = self._lines()
        first = next(lines, None)
        if first is None or not isinstance(first.get("subject"), dict):
            raise FormatError(
                "not a journal of measurements", file=self.path,
                hint="Name another file; this one is left as it is.",
            )  # fmt: skip
        wanted = json.loads(json.dumps(subject))
        for key, value in wanted.items():
            if first["subject"].get(key) != value:
                what = TOPICS.get(key, key)
                raise FormatError(
                    f"this journal is about another {what}", file=self.path, expected=value,
                    found=first["subject"].get(key),
                    hint="Continue it with the same model, text and settings, or name a new one.",
                )  # fmt: skip
        for entry in lines:
            if "started" in entry:
                self.unfinished[entry["started"]] = entry
            elif "digest" in entry:
                self.results[entry["digest"]] = entry
                self.unfinished.pop(entry["digest"], None)

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.strip():
                try:
                    entry = json.loads(line)
                except ValueError:  # a process died while it wrote: that result is measured again
                    continue
                if isinstance(entry, dict):
                    yield entry

    def started(self, digest: str, label: str) -> None:
        self._append({"started": digest, "label": label})

    def finished(self, entry: dict[str, Any]) -> None:
        """Add a result; `entry` has a `digest`."""
        self._append(entry)
        self.results[entry["digest"]] = entry
        self.unfinished.pop(entry["digest"], None)

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False, allow_nan=True) + "\n"
        try:
            with self.path.open("a+b") as file:
                # a half-written last line of a killed process must not swallow this one
                if file.tell() and _last_byte(file.fileno()) != b"\n":
                    line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", file=self.path) from error


def _last_byte(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, 1, size - 1) if size else b"\n"
