"""Whether models can be blended: one architecture, one shape, one tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ArchitectureError, FormatError
from ..expr import Expr, Read
from ..ggufio.types import Header
from ..report_plan import short
from .scales import belongs_to_weight


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
    for name in [t.name for t in first.tensors] + [t.name for t in other.tensors]:
        ours, theirs = first.by_name.get(name), other.by_name.get(name)
        if ours is not None and theirs is not None and ours.shape == theirs.shape:
            continue
        if (ours is None or theirs is None) and _optional(other if ours is None else first, name):
            continue
        raise ArchitectureError(
            "the models are of different shapes", file=other.path, tensor=name,
            expected="none" if ours is None else list(ours.shape),
            found="none" if theirs is None else list(theirs.shape),
        )  # fmt: skip


def _optional(header: Header, name: str) -> bool:
    """Whether a model without the tensor is one with zeros (a bias) or ones (a scale) in it."""

    def get(wanted: str) -> Expr | None:
        tensor = header.by_name.get(wanted)
        return None if tensor is None else Read(0, tensor)

    return name.endswith(".bias") or belongs_to_weight(get, name)


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
