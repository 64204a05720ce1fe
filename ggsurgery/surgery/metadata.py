"""Change single metadata entries; their types stay unless another one is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import GGSurgeryError, PlanError, did_you_mean
from ..ggufio.header import MAX_KEY
from ..ggufio.new_value import new_value, unicode_text
from ..ggufio.split import KEYS as SPLIT_KEYS
from ..ggufio.types import Header, Value
from ..plan.edits import Drop, MetadataEdit, ModelEdit, Set, Unset

#: Entries that determine how the rest of the file is read.
_STRUCTURE = re.compile(r"^(general\.(alignment|architecture)|split\..*|.*\.block_count)$")
#: Entries that every surgery rewrites, so that setting them would have no effect.
_OWN = re.compile(r"^ggsurgery\.(version|recipe|sources|checksums|digest|history|padding)$")


def edited(
    header: Header, metadata: dict[str, Value], edits: Iterable[MetadataEdit]
) -> tuple[dict[str, Value], list[str]]:
    """The metadata after the edits of a plan, and notes for the user.

    Raises:
        PlanError: a value does not fit, a key to remove is missing, or the entry determines how the
            file is read and cannot be changed alone.
    """
    metadata, notes = dict(metadata), []
    for edit in edits:
        key = edit.key.replace("{arch}", header.architecture)
        if isinstance(edit, Unset) and key in SPLIT_KEYS and key in header.metadata:
            continue  # no output has them: a whole file that had them is mended by any change
        if _STRUCTURE.match(key):
            raise PlanError(
                "determines how the file is read and cannot be changed alone",
                file=header.path,
                tensor=key,
                hint="Layer counts follow from `delete`, `keep` and the others.",
            )
        if _OWN.match(key):
            raise PlanError(
                "records how the file was made and is written only by ggsurgery",
                file=header.path,
                tensor=key,
            )
        match edit:
            case Unset():
                if key not in metadata:
                    raise PlanError(
                        f"no entry {key} to remove",
                        file=header.path,
                        hint="`ggsurgery meta show` lists the entries.",
                    )
                del metadata[key]
            case Set(_, value, asked):
                if (
                    key not in metadata
                    and not 0 < len(unicode_text(key, "key").encode()) <= MAX_KEY
                ):
                    raise PlanError("impossible length of a key", expected=f"1 to {MAX_KEY} bytes")
                try:
                    old = metadata.get(key)
                    metadata[key], note = new_value(key, value, header, old=old, asked=asked)
                except GGSurgeryError as error:
                    raise error.at(file=header.path, tensor=key) from None
                notes += [note] if note else []
    return metadata, notes


def kept_tensors(names: Sequence[str], edits: Iterable[ModelEdit], path: Path) -> set[str]:
    """The tensors that the `Drop` edits of a plan leave.

    Raises:
        PlanError: an edit finds no tensor.
    """
    kept = set(names)
    for edit in edits:
        if not isinstance(edit, Drop):
            continue
        wanted = edit.tensor
        found = {wanted} & kept or {name for name in kept if fnmatchcase(name, wanted)}
        if not found:
            raise PlanError(
                f"no tensor {wanted!r} to drop",
                file=path,
                hint=did_you_mean(wanted, names)
                or "`ggsurgery inspect --tensors` lists the tensors.",
            )
        kept -= found
    return kept
