"""Whether models can be blended: one architecture, one shape, one tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ArchitectureError, FormatError
from ..ggufio.types import Header
from ..report_plan import short


def check_alike(headers: Sequence[Header]) -> None:
    """Refuse models that do not fit, naming the first difference.

    Raises:
        ArchitectureError: another architecture, tokenizer, tensor or shape.
    """
    first = headers[0]
    for other in headers[1:]:
        if other.architecture != first.architecture:
            raise ArchitectureError(
                "the models are of different architectures", file=other.path,
                expected=first.architecture, found=other.architecture,
            )  # fmt: skip
        if other.order != first.order:
            raise FormatError("byte order differs from the other source", file=other.path)
        _check_tensors(first, other)
        _check_tokenizer(first, other)


def _check_tensors(first: Header, other: Header) -> None:
    for tensor in first.tensors:
        theirs = other.by_name.get(tensor.name)
        if theirs is None or theirs.shape != tensor.shape:
            raise ArchitectureError(
                "the models are of different shapes", file=other.path, tensor=tensor.name,
                expected=list(tensor.shape), found="none" if theirs is None else list(theirs.shape),
            )  # fmt: skip
    for tensor in other.tensors:
        if tensor.name not in first.by_name:
            raise ArchitectureError(
                "the models are of different shapes", file=other.path, tensor=tensor.name,
                expected="none", found=list(tensor.shape),
            )  # fmt: skip


def _check_tokenizer(first: Header, other: Header) -> None:
    keys = [k for k in first.metadata if k.startswith("tokenizer.ggml.")]
    keys += [k for k in other.metadata if k.startswith("tokenizer.ggml.") and k not in keys]
    for key in keys:
        ours, theirs = first.metadata.get(key), other.metadata.get(key)
        if ours is not None and theirs is not None and ours.raw == theirs.raw:
            continue
        if ours is None or theirs is None or ours.value != theirs.value:
            raise ArchitectureError(
                "the models have different tokenizers", file=other.path, tensor=key,
                expected=_entry(first, other, key), found=_entry(other, first, key),
            )  # fmt: skip


def _entry(header: Header, other: Header, key: str) -> str | None:
    """The value, or of an array the first entry that differs."""
    mine, theirs = header.metadata.get(key), other.metadata.get(key)
    if mine is None or theirs is None or mine.item_type is None or theirs.item_type is None:
        return short(mine) or "none"
    if len(mine) != len(theirs):
        return f"{len(mine)} entries"
    at = next(i for i, (a, b) in enumerate(zip(mine.value, theirs.value, strict=True)) if a != b)
    return f"entry {at} {mine.value[at]!r}"
