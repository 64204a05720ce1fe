"""Scratch files of candidates: in memory where the system has a folder for that.

A candidate's file needs no vocabulary, since the text is already tokens: without it a load
takes milliseconds instead of the time to read and hash a hundred thousand strings.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from gguf.constants import GGUFValueType

from ..arch import ArchRules
from ..errors import GGSurgeryError
from ..execute import execute
from ..ggufio.reader import Source
from ..ggufio.types import Header, Value
from ..header_edit import is_header_edit
from ..layout import FileLayout, lay_out
from ..plan.types import Plan

try:
    import fcntl
except ImportError:  # pragma: no cover - no file locks on Windows
    fcntl = None  # type: ignore[assignment]

#: Where Linux keeps files in memory.
MEMORY = Path("/dev/shm")


#: Begins the names of scratch folders.
PREFIX = "ggsurgery-scratch-"


class Scratch:
    """A folder for one candidate at a time; removed with everything in it on `close`.

    A killed process cannot remove its folder, and in memory that is memory lost. So each
    folder holds a lock for as long as its process lives, and the next one removes those
    that nobody holds.
    """

    def __init__(self, need: int) -> None:
        remove_abandoned(MEMORY)
        remove_abandoned(Path(tempfile.gettempdir()))
        folder = MEMORY if _roomy(MEMORY, need) else None
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        self._lock = _locked(self.folder / "lock", create=True)
        self.in_memory = folder is not None

    @property
    def file(self) -> Path:
        return self.folder / "candidate.gguf"

    def write(
        self, layout: FileLayout, sources: Sequence[Source], given: Mapping[str, Any] | None
    ) -> Path:
        """Write a candidate; the one before leaves first, so that memory holds only one."""
        self.file.unlink(missing_ok=True)
        execute(layout, sources, self.file, given=given)
        for source in sources:
            for tensor in source.header.tensors:
                source.forget(tensor)
        return self.file

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the scratch folders in `folder` whose processes are dead; returns them."""
    removed = []
    for found in folder.glob(f"{PREFIX}*"):
        lock = _locked(found / "lock", create=False)
        if lock is not None:  # a folder without a lock file is being made just now
            shutil.rmtree(found, ignore_errors=True)
            os.close(lock)
            removed.append(found)
    return removed


def _locked(path: Path, *, create: bool) -> int | None:
    """A descriptor that holds the lock; None where another process does, or has no such file."""
    if fcntl is None:
        return None
    try:
        lock = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _roomy(folder: Path, need: int) -> bool:
    try:
        return folder.is_dir() and shutil.disk_usage(folder).free > need + (64 << 20)
    except OSError:
        return False


def candidate_layout(
    plan: Plan, sources: Sequence[Source], rules: ArchRules, *, vocabulary: bool
) -> FileLayout:
    """The file of a plan with the metadata that decoding needs, and no more.

    Raises:
        ArchitectureError: layers would lose their meaning.
        GGSurgeryError: the plan cannot be carried out.
    """
    headers = [source.header for source in sources]
    if any(is_header_edit(edit) for edit in plan.edits):
        plan = replace(plan, edits=tuple(e for e in plan.edits if not is_header_edit(e)))
    change = rules.rewrite(headers, plan)
    metadata = {k: v for k, v in headers[plan.shell].metadata.items() if k not in change.unset}
    metadata |= change.set
    if not vocabulary:
        metadata = without_vocabulary(headers[plan.shell], metadata)
    return lay_out(plan, headers, change, metadata)


def without_vocabulary(header: Header, metadata: Mapping[str, Value]) -> dict[str, Value]:
    """Metadata of a model that takes token ids and knows no text.

    Raises:
        GGSurgeryError: the number of tokens cannot be told from the embedding's shape.
    """
    embedding = header.by_name.get("token_embd.weight")
    if embedding is None:
        raise GGSurgeryError(
            "no token embedding", file=header.path, tensor="token_embd.weight",
            hint="Candidates can be measured only of language models.",
        )  # fmt: skip
    kept = {k: v for k, v in metadata.items() if not k.startswith("tokenizer.")}
    size = Value.of(embedding.shape[1], GGUFValueType.UINT32, order=header.order)
    model = Value.of("no_vocab", GGUFValueType.STRING, order=header.order)
    return kept | {f"{header.architecture}.vocab_size": size, "tokenizer.ggml.model": model}
