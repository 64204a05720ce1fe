"""A journal of measurements: one JSON line each, so that nothing is measured twice.

The first line states the metric and its data; a line `started` without its result is
the candidate that crashed the process.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import EngineError, FormatError, OutputError
from ...files.fields import FieldError, Fields, Kind, dict_of, list_of, number, text, whole
from ...files.text import lines

#: Readable names of a subject's keys, for messages about differences.
TOPICS = {
    "windows": "text",
    "source": "source file",
    "questions": "set of questions",
    "what": "kind of work",
}


#: The fields of an entry, for every metric.
KINDS: Mapping[str, Kind[Any]] = {
    **dict.fromkeys(
        ("value", "stderr", "difference", "difference_stderr", "difference_p", "seconds"), number
    ),
    **dict.fromkeys(("items", "values"), list_of(number)),
    **dict.fromkeys(("label", "error", "difference_test"), text),
    "n": whole,
    "cut": list_of(whole),
    "detail": dict_of(lambda value: None if value is None else number(value)),
}


class Journal:
    """Results by digest, in a file that grows line by line.

    Args:
        path: the file; made if it does not exist.
        subject: what was measured; a file with another subject is refused.

    Raises:
        FormatError: the file is not a journal, or belongs to another subject.
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
        entries = self._lines()
        _, first = next(entries, (0, {}))
        if not isinstance(first.get("subject"), dict):
            raise FormatError(
                "not a journal of measurements",
                file=self.path,
                hint="Name another file; this one is left as it is.",
            )
        wanted = json.loads(json.dumps(subject))
        for key, value in wanted.items():
            if first["subject"].get(key) != value:
                what = TOPICS.get(key, key)
                raise FormatError(
                    f"this journal is about another {what}",
                    file=self.path,
                    expected=value,
                    found=first["subject"].get(key),
                    hint="Continue it with the same model, text and settings, or name a new one.",
                )
        for at, entry in entries:
            if "started" in entry:
                found = self._checked(at, entry, {"started": text, "label": text})
                self.unfinished[found["started"]] = found
            elif "digest" in entry:
                found = self._checked(at, entry, {"digest": text})
                self.results[found["digest"]] = found
                self.unfinished.pop(found["digest"], None)

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for at, line in lines(self.path):
            if line.strip():
                try:
                    entry = json.loads(line.decode("utf-8", "replace"))
                except (ValueError, RecursionError):  # a process died while it wrote
                    continue  # that result is measured again
                if isinstance(entry, dict):
                    yield at, entry

    def _checked(
        self, at: int, entry: dict[str, Any], needed: Mapping[str, Kind[Any]]
    ) -> dict[str, Any]:
        """An entry whose known fields have their types."""
        fields = Fields(entry)
        try:
            read = {key: fields.get(key, kind) for key, kind in needed.items()}
            more = {k: fields.get_or(k, kind, None) for k, kind in KINDS.items() if k in entry}
        except FieldError as error:
            raise FormatError(
                f"line {at}: {error.problem}",
                file=self.path,
                expected=error.expected,
                found=error.found,
                hint="Delete that line, and it is measured again.",
            ) from None
        return {**entry, **more, **read}

    def entry(self, digest: str, *needed: str) -> dict[str, Any] | None:
        """The result of a candidate, None if there is none.

        Raises:
            FormatError: it lacks a field that is needed.
        """
        found = self.results.get(digest)
        missing = [k for k in needed if found is not None and found.get(k) is None]
        if missing:
            raise FormatError(
                f"result {digest}: field {missing[0]} is missing",
                file=self.path,
                hint="Delete its line, and it is measured again.",
            )
        return found

    def lost(self, run: str) -> dict[str, str]:
        """Measurements that the process `run` began and did not finish: digests, and the rest of
        their labels.

        Other processes' lines, of an earlier one that was stopped, are not among them.
        """
        labels = {
            digest: entry["label"].partition(" ") for digest, entry in self.unfinished.items()
        }
        return {digest: rest for digest, (word, _, rest) in labels.items() if word == run}

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


def past_crashes(
    path: Path,
    subject: dict[str, Any],
    attempt: Callable[[str], object],
    record: Callable[[dict[str, str], EngineError], object],
) -> None:
    """Run `attempt` until it ends by itself: a candidate that takes its process along is a result.

    Args:
        path, subject: of the journal that the attempt's process keeps.
        attempt: starts a process; the word that it gets begins the labels of its lines.
        record: notes what was lost (see `Journal.lost`), so that the next attempt passes it by.

    Raises:
        EngineError: from an attempt that lost nothing, so that no candidate is to blame.
    """
    while True:
        run = uuid.uuid4().hex
        try:
            attempt(run)
            return
        except EngineError as error:
            lost = Journal(path, subject).lost(run) if path.exists() else {}
            if not lost:
                raise
            record(lost, error)


def _last_byte(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, 1, size - 1) if size else b"\n"
