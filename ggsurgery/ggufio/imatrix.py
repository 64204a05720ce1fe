"""Importance matrices in llama.cpp's GGUF form (and its older .dat form, read only).

For every weight matrix W [rows, n_in] an entry holds, over the calibration tokens,

    sums    Σ x²  of each input column, float32 [n_mat, n_in]   tensor NAME.in_sum2
    counts  how many tokens were summed, [n_mat]                tensor NAME.counts

n_mat is 1, or the number of experts of a mixture layer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..files.atomic import atomic_path, check_output
from ..files.system_errors import unreadable
from ..files.text import read_bytes
from .constants import GGUF_MAGIC, GGMLQuantizationType, GGUFValueType
from .reader import Source
from .types import TensorInfo, Value
from .writer import encode_header, padded

F32 = NDArray[np.float32]
ALIGNMENT = 32
#: Bytes of the older form; that of a mixture of 256 experts has some 2^30.
MAX_LEGACY = 2**32
SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Entry:
    """One matrix or stack of experts: `sums` float32 [n_mat, n_in], `counts` int64 [n_mat]."""

    sums: F32
    counts: NDArray[np.int64]

    def means(self) -> F32:
        """Σ x² / count, float32 [n_mat · n_in], as llama-quantize uses it: 1 where count is 0."""
        counts = np.broadcast_to(self.counts, (len(self.sums),)).astype(np.float32)
        seen = counts > 0
        result = np.ones_like(self.sums)
        np.divide(self.sums, counts[:, None], out=result, where=seen[:, None])
        return result.ravel()


@dataclass(frozen=True)
class Imatrix:
    """All entries by the name of their tensor, and what they were computed on.

    `path` is the file that they were read from.
    """

    entries: dict[str, Entry]
    datasets: tuple[str, ...] = ()
    n_chunks: int = 0
    chunk_size: int = 0
    legacy: bool = False
    metadata: dict[str, Value] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)

    @property
    def layers(self) -> set[int]:
        """The layers that have entries."""
        found = (TensorInfo(n, (1,), 0, 0, 0).layer for n in self.entries)
        return {n for n in found if n is not None}


def read_imatrix(path: str | Path) -> Imatrix:
    """Read either form.

    Raises:
        FormatError: it is not an imatrix, or it is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise unreadable(error, path) from error
    if magic != struct.pack("<I", GGUF_MAGIC):
        return _read_legacy(path)
    with Source(path) as source:
        header = source.header
        if not any(t.name.endswith(SUMS) for t in header.tensors):
            raise FormatError(
                "not an importance matrix",
                file=path,
                expected=f"tensors NAME{SUMS}",
                found=f"{len(header.tensors)} tensors of another kind",
                hint="Make one with: ggsurgery imatrix MODEL OUT --text TEXT",
            )
        entries = {}
        for tensor in header.tensors:
            if tensor.name.endswith(SUMS):
                name = tensor.name.removesuffix(SUMS)
                entries[name] = _entry(source, tensor, name)
        get = header.get
        own = {k: v for k, v in header.metadata.items() if not k.startswith("imatrix.")}
        return Imatrix(
            entries,
            _names(get("imatrix.datasets")),
            header.number("imatrix.chunk_count") or 0,
            header.number("imatrix.chunk_size") or 0,
            metadata=own,
            path=path,
        )


def _names(found: Any) -> tuple[str, ...]:
    """The entry's texts, if it is a list of such."""
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _entry(source: Source, sums: TensorInfo, name: str) -> Entry:
    counts = source.header.by_name.get(name + COUNTS)
    path = source.header.path
    if counts is None:
        raise FormatError("sums without counts", file=path, tensor=name + COUNTS)
    for tensor in (sums, counts):
        if tensor.type != GGMLQuantizationType.F32:
            raise FormatError(
                "wrong type", file=path, tensor=tensor.name, expected="f32", found=tensor.type_name
            )
    n_mat = counts.n_elements
    if n_mat == 0 or sums.n_elements % n_mat:
        raise FormatError(
            "sums and counts do not fit together",
            file=path,
            tensor=sums.name,
            expected=f"a multiple of {n_mat} values",
            found=sums.n_elements,
        )
    values = np.frombuffer(source.data(sums), "<f4").reshape(n_mat, -1).copy()
    seen = np.frombuffer(source.data(counts), "<f4")
    if not (np.isfinite(seen) & (seen >= 0)).all():
        raise FormatError(
            "a count of tokens that cannot be",
            file=path,
            tensor=counts.name,
            expected="0 or more",
            found=float(seen[~(np.isfinite(seen) & (seen >= 0))][0]),
        )
    entry = Entry(values, np.rint(seen).astype(np.int64))
    _check_values(entry, sums.name, path)
    return entry


def _check_values(entry: Entry, name: str, path: Path) -> None:
    """Refuse sums of squares that are none.

    Raises:
        FormatError: names the entry and its first value below 0 or not finite.
    """
    good = np.isfinite(entry.sums) & (entry.sums >= 0)
    if not good.all():
        column = int(np.argmin(good.ravel())) % entry.sums.shape[1]
        raise FormatError(
            f"an importance that cannot be, of input column {column}",
            file=path,
            tensor=name,
            expected="0 or more, and finite",
            found=float(entry.sums[~good][0]),
            hint="The matrix was made on a broken model or is damaged: collect it again.",
        )


def _read_legacy(path: Path) -> Imatrix:
    data = memoryview(read_bytes(path, MAX_LEGACY))
    at = 0

    def take(code: str) -> Any:
        nonlocal at
        value = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return value[0]

    def text() -> str:
        nonlocal at
        length = take("i")
        if not 0 <= length <= len(data) - at:
            raise ValueError("a length beyond the end of the file")
        at += length
        return bytes(data[at - length : at]).decode("utf-8")

    try:
        entries = {}
        count = take("i")
        if not 0 < count <= len(data) // 16:
            raise ValueError(f"{count} entries")
        for _ in range(count):
            name, n_calls, n_values = text(), take("i"), take("i")
            if not 0 < n_values <= (len(data) - at) // 4:
                raise ValueError(f"{n_values} values for {name}")
            values = np.frombuffer(data, "<f4", n_values, at).reshape(1, -1).copy()
            at += 4 * n_values
            entries[name] = Entry(values, np.array([max(1, n_calls)], np.int64))
        n_chunks = take("i") if at < len(data) else 0
        datasets = (text(),) if at < len(data) else ()
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise FormatError(
            "not an importance matrix",
            file=path,
            expected="llama.cpp's GGUF or .dat form",
            found=str(error),
        ) from error
    for name, entry in entries.items():
        _check_values(entry, name, path)
    return Imatrix(entries, datasets, n_chunks, 0, legacy=True, path=path)


def write_imatrix(
    imatrix: Imatrix, out: str | Path, *, inputs: Sequence[Path] = (), force: bool = False
) -> None:
    """Write llama.cpp's GGUF form, entries sorted by name as llama-imatrix sorts them.

    Args:
        inputs: files that it must not replace and whose tighter rights it gets.

    Raises:
        OutputError: the output exists or cannot be written.
    """
    out = Path(out)
    check_output(out, inputs, force=force)
    text, array, u32 = GGUFValueType.STRING, GGUFValueType.ARRAY, GGUFValueType.UINT32
    metadata = {
        "general.type": Value.of("imatrix", text),
        "imatrix.datasets": Value.of(list(imatrix.datasets), array, text),
        "imatrix.chunk_count": Value.of(imatrix.n_chunks, u32),
        "imatrix.chunk_size": Value.of(imatrix.chunk_size, u32),
        **{k: v for k, v in imatrix.metadata.items() if k != "general.type"},
    }
    tensors, blobs, offset = [], [], 0
    for name in sorted(imatrix.entries):
        entry = imatrix.entries[name]
        n_mat, n_in = entry.sums.shape
        for suffix, shape, values in (
            (SUMS, (n_in, n_mat), entry.sums),
            (COUNTS, (1, n_mat), entry.counts),
        ):
            data = np.ascontiguousarray(values, "<f4").tobytes()
            kind = int(GGMLQuantizationType.F32)
            tensors.append(TensorInfo(name + suffix, shape, kind, offset, len(data)))
            blobs.append(data.ljust(padded(len(data), ALIGNMENT), b"\0"))
            offset += len(blobs[-1])
    header = encode_header(metadata, tensors, "<", ALIGNMENT)
    atomic = atomic_path(out, inputs=inputs, force=force)
    with atomic as temporary, temporary.open("wb") as file:
        file.write(header)
        file.writelines(blobs)
