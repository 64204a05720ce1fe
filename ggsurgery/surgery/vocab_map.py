"""Which tokens a trimmed vocabulary keeps: a JSON file beside the model.

    {"ggsurgery": "vocab", "sha256": …, "before": 49152, "after": 32000, "old_ids": [0, 1, …]}

`old_ids[new] = old`, ascending. The list is too long for a header, which holds its checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import FormatError, PlanError
from ..files.atomic import atomic_path
from ..files.fields import FieldError, Fields, list_of, read_json, text, whole
from ..ggufio.header import read_header
from ..plan.edits import TrimVocab
from ..plan.recipe import Step, step
from .provenance import read_provenance

KIND = "vocab"


@dataclass(frozen=True)
class VocabMap:
    """The tokens that stay.

    Args:
        before: tokens of the uncut vocabulary.
        old_ids: their ids there, ascending; a token's place in the list is its new id.
    """

    before: int
    old_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        ids = self.old_ids
        ascending = all(a < b for a, b in pairwise(ids))
        if not ids or not ascending or ids[0] < 0 or ids[-1] >= self.before:
            raise PlanError(
                "not a list of tokens to keep",
                expected=f"ascending ids from 0 to {self.before - 1}",
                found=f"{len(ids)} ids" + (f" from {ids[0]} to {max(ids)}" if ids else ""),
            )

    @property
    def after(self) -> int:
        return len(self.old_ids)

    @cached_property
    def new_ids(self) -> dict[int, int]:
        """Old id → new id, of the tokens that stay."""
        return {old: new for new, old in enumerate(self.old_ids)}

    @cached_property
    def sha256(self) -> str:
        """Checksum (hex) of the number before and the ids, joined by commas."""
        listed = ",".join(map(str, (self.before, *self.old_ids)))
        return hashlib.sha256(listed.encode()).hexdigest()

    def step(self, path: str | Path) -> Step:
        """The step of a recipe that keeps these tokens; `path` is the file of the map."""
        ids = {"sha256": self.sha256, "before": self.before, "after": self.after}
        return step("trim_vocab", map=str(path), ids=ids)

    def to_json(self) -> dict[str, Any]:
        return {
            "ggsurgery": KIND,
            "sha256": self.sha256,
            "before": self.before,
            "after": self.after,
            "old_ids": list(self.old_ids),
        }

    def save(self, path: str | Path, *, inputs: Sequence[Path] = (), force: bool = False) -> None:
        """Write the file that `load` reads.

        Raises:
            OutputError: it exists (without `force`), is an input, or its folder is missing.
        """
        with self.saving(path, inputs=inputs, force=force):
            pass

    @contextmanager
    def saving(
        self, path: str | Path, *, inputs: Sequence[Path] = (), force: bool = False
    ) -> Iterator[None]:
        """As `save`; the file gets its name when the block, which writes the model, ends well."""
        with atomic_path(Path(path), inputs=inputs, force=force) as temporary:
            temporary.write_text(json.dumps(self.to_json(), separators=(",", ":")) + "\n")
            yield

    @classmethod
    def load(cls, path: str | Path) -> VocabMap:
        """Read a map.

        Raises:
            FormatError: it cannot be read, is not a map, or its checksum differs.
        """
        document = read_json(path)
        try:
            fields = Fields(document)
            if fields.data.get("ggsurgery") != KIND:
                raise FormatError(
                    "not a map of a vocabulary",
                    expected='a file that `ggsurgery vocab trim` wrote ("ggsurgery": "vocab")',
                )
            found = cls(fields.get("before", whole), fields.get("old_ids", list_of(whole)))
            checksum = fields.get("sha256", text)
        except (FieldError, FormatError, PlanError) as error:
            raise error.at(file=path) from None
        _check_sum(found, checksum, path)
        return found


def map_of(edit: TrimVocab, given: VocabMap | None = None) -> VocabMap:
    """The map that an edit names.

    Args:
        given: the map where it is not in its file yet.

    Raises:
        FormatError: the file is missing, damaged, or another map.
    """
    found = VocabMap.load(edit.map) if given is None else given
    _check_sum(found, edit.sha256, edit.map)
    return found


def map_of_file(file: Path, map_file: Path | None = None) -> VocabMap:
    """The map of a trimmed file, checked against its header.

    Args:
        map_file: None takes the file that the header names, beside `file`.

    Raises:
        PlanError: the file was not trimmed, or the map is another file's.
    """
    header = read_header(file)
    steps = [s for s in read_provenance(header).recipe.steps if s.operation == "trim_vocab"]
    if not steps:
        raise PlanError(
            "the vocabulary of this file was not trimmed",
            file=file,
            hint="`ggsurgery vocab trim` trims one.",
        )
    arguments = dict(steps[0].arguments)
    path = map_file or file.parent / str(arguments["map"])
    found = VocabMap.load(path)
    _check_sum(found, str(arguments["ids"].get("sha256")), path)
    return found


def _check_sum(found: VocabMap, checksum: str, path: str | Path) -> None:
    if found.sha256 != checksum:
        raise FormatError(
            "the map's checksum differs",
            file=path,
            expected=f"sha256 {checksum}",
            found=found.sha256,
            hint="Trim the vocabulary again, or use the map that was written with the file.",
        )
