"""A ladder of files from one source: Q8_0, Q6_K, Q4_K_M …, all sizes known before the first byte.

An existing, complete file is reused. A file is complete if it exists, because files get their name
only when finished. It belongs to this source and these options if its header, tensor types and
copied tensors equal those that would be written now and it is not older.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from ..errors import FormatError, OutputError
from ..files.atomic import check_output
from ..files.names import fitting
from ..files.progress import NamedProgress
from ..ggufio.header import read_header
from ..ggufio.imatrix import Imatrix
from ..ggufio.reader import Source
from ..runtime.filetypes import file_type
from ..runtime.quantize import Planned, plan
from ..runtime.quantize_plan import QuantizeResult, as_written
from ..surgery.layout import Compute
from ..surgery.shards import file_numbers
from .like import with_pins
from .split import make_split

#: The ladder of the published tiny models, from near lossless to small.
DEFAULT = ("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K")

#: Tensors up to this many bytes are compared with the source's where both have one type.
COPIED = 1 << 16

_FLOAT_SUFFIX = re.compile(r"[-._](f32|f16|bf16|fp16|fp32)$", re.IGNORECASE)
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Rung:
    """One file of the ladder; `there` if it need not be made again.

    Args:
        path: the file; of a split one that is `there` its first part.
    """

    path: Path
    planned: Planned
    there: bool

    @property
    def result(self) -> QuantizeResult:
        return self.planned.result

    @property
    def out(self) -> Path:
        """The name to write; a split file's name gets numbers."""
        return self.path.with_name(f"{_SHARD.sub('', self.path.stem)}.gguf")


@dataclass(frozen=True)
class Ladder:
    """All rungs, checked; nothing is written before `make`."""

    src: Path
    rungs: tuple[Rung, ...]
    inputs: tuple[Path, ...] = ()
    split_max_size: int | None = None

    @property
    def bytes_to_write(self) -> int:
        return sum(r.result.n_bytes for r in self.rungs if not r.there)

    def make(
        self, *, force: bool = False, progress: NamedProgress | None = None
    ) -> Iterator[QuantizeResult]:
        """Make the missing files one after the other.

        Args:
            force: make all files, replacing existing ones.
            progress: called with (file name, tensors done, tensors in all).

        Raises:
            OutputError: the disk does not have room for all files, or a different file of that name
                exists.
        """
        self._check_disk(force)
        for folder in {rung.path.parent for rung in self.rungs}:
            folder.mkdir(parents=True, exist_ok=True)
        for rung in self.rungs:
            if rung.there and not force:
                yield _there(rung)
                continue

            def report(done: int, total: int, name: str = rung.path.name) -> None:
                if progress is not None:
                    progress(name, done, total)

            if self.split_max_size is None:
                yield rung.planned.make(rung.path, force=force, progress=report)
            else:
                size = self.split_max_size
                yield make_split(rung.planned, rung.out, size, force=force, progress=report)

    def _check_disk(self, force: bool) -> None:
        missing = [r for r in self.rungs if force or not r.there]
        if not missing:
            return
        folder = missing[0].path.parent
        while not folder.exists():
            folder = folder.parent
        for rung in missing:
            if rung.path.parent.exists():
                inputs = (*rung.planned.header.paths, *self.inputs)
                split = self.split_max_size is not None
                for path in _first_files(rung.out) if split else [rung.path]:
                    check_output(path, inputs, force=force)
        needed = sum(r.result.n_bytes for r in missing)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OutputError(
                f"not enough room on the disk for {len(missing)} files",
                file=folder,
                expected=f"{needed:,} bytes",
                found=f"{free:,} bytes free",
                hint="Nothing was written. Free some room, or ask for fewer types.",
            )


def ladder(
    src: str | Path,
    types: Sequence[str],
    out_dir: str | Path,
    *,
    pin: str | Path | None = None,
    split_max_size: int | None = None,
    **options: Any,
) -> Ladder:
    """Plan a ladder.

    Args:
        types: file types, largest first or in any order; the files follow this order.
        out_dir: the folder, created if missing; files are named `NAME-TYPE.gguf`.
        pin: the uncut model whose types the layers keep; see `like.pinned`.
        split_max_size: write each as several files with tensors of at most so many bytes.
        options: as of `runtime.quantize.plan`.

    Raises:
        EngineError: as of `runtime.quantize.plan`.
        FormatError, PlanError: `pin` is not what `src` was made from.
        OutputError: a file is in the folder's place.
    """
    src, folder = Path(src), Path(out_dir)
    if folder.exists() and not folder.is_dir():
        raise OutputError("the output folder is a file", file=folder, expected="a folder")
    imatrix = options.get("imatrix")
    file = imatrix.path if isinstance(imatrix, Imatrix) else imatrix
    inputs = [src] if file is None else [src, Path(file)]
    types = list(dict.fromkeys(file_type(name)[0] for name in types))
    rungs = []
    if pin is None:
        planned_files = plan(src, types, **options)
    else:  # every type has a mix of its own
        planned_files = [
            one
            for ftype in types
            for one in plan(src, [ftype], **with_pins(src, pin, ftype, options))
        ]
    for planned in planned_files:
        path = folder / f"{base_name(src)}-{planned.result.ftype}.gguf"
        made = [path] if split_max_size is None else _first_files(path)
        whole = [p for p in made if _is_there(p, planned, inputs, split_max_size)]
        rungs.append(Rung(whole[0] if whole else path, planned, bool(whole)))
    others = [] if pin is None else [Path(pin)]
    return Ladder(src, tuple(rungs), (*inputs, *others), split_max_size)


def base_name(src: Path) -> str:
    """The source's name without shard number, float type and `.gguf`.

    Example:
        >>> base_name(Path("tiny-F16.gguf"))
        'tiny'
    """
    return fitting(_FLOAT_SUFFIX.sub("", _SHARD.sub("", src.stem)) or src.stem)


def _first_files(path: Path) -> list[Path]:
    """The first files of all split models that are named `path`."""
    return sorted(path.parent.glob(f"{escape(path.stem)}-00001-of-?????.gguf"))


def _is_there(path: Path, planned: Planned, inputs: Sequence[Path], max_bytes: int | None) -> bool:
    if not path.is_file() or (max_bytes is None and path.stat().st_size != planned.result.n_bytes):
        return False
    try:
        header = read_header(path)
    except FormatError:
        return False
    times = [p.stat().st_mtime_ns for p in inputs]
    if any(made.stat().st_mtime_ns < max(times) for made in header.paths):
        return False
    if max_bytes is not None:
        sizes = [t.nbytes for t in header.tensors]
        if [t.shard for t in header.tensors] != file_numbers(sizes, header.alignment, max_bytes):
            return False
    types = {t.name: t.new for t in planned.result.tensors}
    if {t.name: t.type_name for t in header.tensors} != types:
        return False
    if any(header.get(key) != as_written(value) for key, value in planned.call.metadata):
        return False  # of another importance matrix
    return all(
        header.metadata[key].raw == value.raw
        for key, value in planned.header.metadata.items()
        if key in header.metadata and key not in ("general.file_type",)
    ) and _same_copies(path, planned)


def _same_copies(made: Path, planned: Planned) -> bool:
    """Whether the small tensors that are copied as they are (norms) are the source's.

    A source that was put in place of another with an older time (`mv`, `cp -p`) has other ones.
    """
    folded = () if planned.folded is None else planned.folded.pieces
    computed = {p.info.name for p in folded if isinstance(p.job, Compute)}
    with Source(made) as ours, Source(planned.header.path) as theirs:
        return all(
            bytes(ours.data(t)) == bytes(theirs.data(theirs.header.by_name[t.name]))
            for t in ours.header.tensors
            if t.nbytes <= COPIED
            and t.type == theirs.header.by_name[t.name].type
            and t.name not in computed
        )


def _there(rung: Rung) -> QuantizeResult:
    return replace(rung.result, path=rung.path)
