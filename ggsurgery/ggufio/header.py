"""Read and validate a GGUF header without trusting its contents.

Every count, length, offset and product is checked before it is used, so a hostile or
damaged file gives a `FormatError` and never a crash or an endless loop. String arrays are
skipped, not decoded: a vocabulary of 150k tokens costs some tens of milliseconds.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from itertools import pairwise
from pathlib import Path

from ..errors import FormatError
from ..files.shard_names import shard_paths
from ..files.system_errors import reading
from .constants import GGUF_DEFAULT_ALIGNMENT, GGUF_MAGIC, GGUFValueType, Keys
from .cursor import DOWNLOAD_HINT, MAX_ENTRIES, MAX_HEADER, Cursor
from .split import is_leftover
from .types import SCALAR_CODES, Header, TensorInfo, Value, tensor_nbytes, type_name

MAX_KEY = 2**16 - 1  # gguf.md: keys have at most 65535 bytes
MAX_NAME = 63  # ggml.h: GGML_MAX_NAME is 64, with the closing zero
MAX_DIMS = 4  # ggml.h: GGML_MAX_DIMS
MAX_ALIGNMENT = 2**20
_SCALAR_SIZE = {kind: struct.calcsize("<" + code) for kind, code in SCALAR_CODES.items()}


def read_header(path: str | Path, *, alone: bool = False) -> Header:
    """Read the header of a GGUF file; for a split file, the headers of all shards combined.

    Args:
        path: the file, or any shard `…-0000K-of-0000N.gguf` of a split file.
        alone: read only this file, even if its header names further shards.

    Raises:
        FormatError: the file is truncated, inconsistent or not GGUF.

    Example:
        >>> read_header("model.gguf").n_layers  # doctest: +SKIP
        30
    """
    first = read_shard(Path(path))
    count = first.get("split.count", 0)
    if alone or not isinstance(count, int) or count <= 1 or is_leftover(first):
        return first
    paths = shard_paths(Path(path), count)
    shards = [first if p == Path(path) else read_shard(p) for p in paths]
    return _join(shards)


def _join(shards: list[Header]) -> Header:
    lead = shards[0]
    tensors: list[TensorInfo] = []
    seen: dict[str, Path] = {}
    for number, shard in enumerate(shards):
        if shard.get("split.no") != number or shard.get("split.count") != len(shards):
            raise FormatError(
                "the shard's number does not match the file's name",
                file=shard.path,
                tensor="split.no",
                expected=f"{number} of {len(shards)}",
                found=f"{shard.get('split.no')} of {shard.get('split.count')}",
            )
        if shard.order != lead.order:
            raise FormatError("byte order differs from the first shard", file=shard.path)
        for t in shard.tensors:
            if t.name in seen:
                raise FormatError(
                    "tensor is in two shards",
                    file=shard.path,
                    tensor=t.name,
                    found=f"also in {seen[t.name].name}",
                )
            seen[t.name] = shard.path
            tensors.append(TensorInfo(t.name, t.shape, t.type, t.offset, t.nbytes, number))
    total = lead.get("split.tensors.count")
    if total is not None and total != len(tensors):
        raise FormatError(
            "tensors missing from the shards",
            file=lead.path,
            tensor="split.tensors.count",
            expected=total,
            found=len(tensors),
        )
    metadata = {k: v for k, v in lead.metadata.items() if not k.startswith("split.")}
    return Header(
        tuple(s.path for s in shards),
        lead.version,
        lead.order,
        lead.alignment,
        metadata,
        tuple(tensors),
        tuple(s.data_offset[0] for s in shards),
        tuple(s.file_size[0] for s in shards),
    )


def read_shard(path: Path) -> Header:
    """The header of one file of a split model by itself, whatever its name.

    Raises:
        FormatError: as `read_header`.
    """
    try:  # without O_NONBLOCK a named pipe would wait for a writer for ever
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise FormatError(error.strerror or str(error), file=path) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError("not a regular file", file=path, expected="a GGUF file")
        with reading(path, "the header"):  # by a call, since a failing disk ends a mapping's reader
            head = os.pread(descriptor, 24, 0)
        if status.st_size < 24:
            refuse_foreign(path, head)
            raise FormatError(
                "too small for a GGUF file",
                file=path,
                expected="at least 24 bytes",
                found=status.st_size,
                hint=DOWNLOAD_HINT,
            )
        mapped = min(status.st_size, MAX_HEADER)
        with mmap.mmap(descriptor, mapped, access=mmap.ACCESS_READ) as data:
            return _parse(Cursor(path, data, status.st_size))
    finally:
        os.close(descriptor)


def refuse_foreign(path: Path, head: bytes | mmap.mmap) -> None:
    """Name a file that begins as no GGUF does, if its first bytes show what it is.

    Raises:
        FormatError: they do.
    """
    from .foreign import HEAD, describe  # only for files that are not GGUF

    if found := describe(head[:HEAD]):
        raise FormatError(found[0], file=path, hint=found[1])


def _parse(c: Cursor) -> Header:
    version = _magic_and_version(c)
    n_tensors, n_kv = c.int64(), c.int64()
    # The smallest entry: a tensor takes 8+1+4+4+8 bytes, a key 8+1+4+1.
    for what, count, least in (("tensors", n_tensors, 25), ("metadata keys", n_kv, 14)):
        if count > (c.end - c.position) // least:
            raise c.fail(
                f"impossible count of {what}",
                expected=f"at most {(c.end - c.position) // least} in a file of this size",
                found=count,
                hint=DOWNLOAD_HINT,
            )
        if count > MAX_ENTRIES:
            raise c.fail(f"too many {what}", expected=f"at most {MAX_ENTRIES}", found=count)
    metadata = _metadata(c, n_kv)
    c.where = Keys.General.ALIGNMENT
    alignment = _alignment(c, metadata)
    infos = [_tensor_info(c) for _ in range(n_tensors)]
    data_offset = -(-c.position // alignment) * alignment
    if infos and data_offset > c.end:
        c.where = "tensor data"
        raise c.fail(
            "the file ends before its data",
            expected=f"data from byte {data_offset}",
            found=f"{c.end} bytes",
            hint=DOWNLOAD_HINT,
        )
    tensors = _place(c, infos, alignment, data_offset)
    return Header(
        (c.path,), version, c.order, alignment, metadata, tensors, (data_offset,), (c.end,)
    )


def _magic_and_version(c: Cursor) -> int:
    magic = c.take(4)
    if magic != struct.pack("<I", GGUF_MAGIC):
        refuse_foreign(c.path, c.data)
        raise c.fail(
            "not a GGUF file",
            expected="the magic 'GGUF'",
            found=repr(magic),
            hint="Only GGUF files can be operated on; convert other formats with "
            "llama.cpp's convert_hf_to_gguf.py.",
        )
    raw = c.take(4)
    version = int(struct.unpack("<I", raw)[0])
    if version > 0xFFFF:  # a small number read in the wrong byte order
        c.use(">")
        version = int(struct.unpack(">I", raw)[0])
    if version not in (2, 3):
        raise c.fail(
            "GGUF version not supported",
            expected="2 or 3",
            found=version,
            hint="Version 1 files must be converted again from the original model.",
        )
    return version


def _metadata(c: Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for number in range(count):
        c.where = f"metadata key {number}"
        key = c.string(MAX_KEY, "key")
        if not key:
            raise c.fail("empty key")
        c.where = key
        if key in metadata:
            raise c.fail("duplicate key")
        metadata[key] = _value(c)
    return metadata


def _value_type(c: Cursor) -> GGUFValueType:
    tag = c.int32()
    try:
        return GGUFValueType(tag)
    except ValueError:
        raise c.fail(
            "unknown value type", expected=f"0 to {max(GGUFValueType)}", found=tag
        ) from None


def _value(c: Cursor) -> Value:
    kind = _value_type(c)
    if kind == GGUFValueType.ARRAY:
        return Value(kind, _array(c), c.order)
    if kind != GGUFValueType.STRING:
        return Value(kind, c.take(_SCALAR_SIZE[kind]), c.order)
    start = c.position
    c.skip(c.int64())
    raw = c.data[start : c.position]
    return Value(kind, raw, c.order)


def _array(c: Cursor) -> bytes:
    start = c.position
    item = _value_type(c)
    count = c.int64()
    if item == GGUFValueType.ARRAY:
        raise c.fail(
            "nested array",
            expected="an array of scalars or strings",
            hint="llama.cpp does not read nested arrays either.",
        )
    least = 8 if item == GGUFValueType.STRING else _SCALAR_SIZE[item]
    if count > (c.end - c.position) // least:
        raise c.fail("array longer than the file", found=f"{count} items", hint=DOWNLOAD_HINT)
    if item == GGUFValueType.STRING:
        _skip_strings(c, count)
    else:
        c.skip(count * _SCALAR_SIZE[item])
    return c.data[start : c.position]


def _skip_strings(c: Cursor, count: int) -> None:
    # The one hot loop: a vocabulary has 150k tokens and as many merges. A length that
    # leads out of the file makes the next unpack fail; the last one is checked behind.
    # Tokens may be any bytes (byte-level vocabularies), so they are not decoded here.
    if 8 * count > MAX_HEADER:
        raise c.fail("array longer than any model's", found=f"{count} strings")
    unpack, data, position = c.u64.unpack_from, c.data, c.position
    try:
        for _ in range(count):
            position += 8 + unpack(data, position)[0]
    except (struct.error, OverflowError, IndexError):
        position = len(data) + 1  # over the end of the file, or of what a header may take
    if position > c.end:
        raise c.fail("a string of the array reaches over the end of the file", hint=DOWNLOAD_HINT)
    c.skip(position - c.position)


def _alignment(c: Cursor, metadata: dict[str, Value]) -> int:
    value = metadata.get(Keys.General.ALIGNMENT)
    if value is None:
        return GGUF_DEFAULT_ALIGNMENT
    found = value.value if value.type == GGUFValueType.UINT32 else None
    if not isinstance(found, int) or not 1 <= found <= MAX_ALIGNMENT or found & (found - 1):
        raise c.fail(
            "unusable alignment",
            expected=f"a power of two from 1 to {MAX_ALIGNMENT} as uint32",
            found=value.value if len(value) == 1 else value.type.name.lower(),
        )
    return found


def _tensor_info(c: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    c.where = "tensor list"
    name = c.string(MAX_NAME, "tensor name")
    c.where = name or "tensor without a name"
    if not name:
        raise c.fail("empty tensor name")
    n_dims = c.int32()
    if n_dims > MAX_DIMS:
        raise c.fail("impossible number of dimensions", expected=f"0 to {MAX_DIMS}", found=n_dims)
    shape = tuple(c.int64() for _ in range(n_dims)) or (1,)  # ggml: a scalar is a row of one
    elements = 1
    for size in shape:
        elements *= size
        if size < 1 or elements >= 2**63:
            raise c.fail("impossible shape", found=list(shape))
    return name, shape, c.int32(), c.int64()


def _place(
    c: Cursor, infos: list[tuple[str, tuple[int, ...], int, int]], alignment: int, start: int
) -> tuple[TensorInfo, ...]:
    """Sizes from shapes and types; a type unknown here reaches to the next tensor."""
    room = c.end - start
    order = sorted(range(len(infos)), key=lambda i: infos[i][3])
    following = {i: infos[j][3] for i, j in pairwise(order)}
    tensors = []
    seen = set()
    for index, (name, shape, kind, offset) in enumerate(infos):
        c.where = name
        if name in seen:
            raise c.fail("duplicate tensor name")
        seen.add(name)
        if offset % alignment:
            raise c.fail("tensor not aligned", expected=f"a multiple of {alignment}", found=offset)
        try:
            size = tensor_nbytes(shape, kind)
        except ValueError as error:
            raise c.fail(f"impossible shape for {type_name(kind)}", found=str(error)) from None
        limit = following.get(index, room)
        if size is None:  # an unknown type: up to the next tensor, or to the end
            size = limit - offset
        if offset >= room or offset + size > room:
            raise c.fail(
                "tensor reaches over the end of the file",
                expected=f"data up to byte {start + offset + size}",
                found=f"{c.end} bytes",
                hint=DOWNLOAD_HINT,
            )
        if size == 0 or offset + size > limit:
            raise c.fail(
                "tensor overlaps the next one",
                expected=f"at most {limit - offset} bytes",
                found=size,
            )
        tensors.append(TensorInfo(name, shape, kind, offset, size))
    return tuple(tensors)
