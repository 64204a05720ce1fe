"""Whether models can be blended or stacked: one architecture, one shape, one vocabulary."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import ArchitectureError, FormatError
from ..ggufio.changes import short
from ..ggufio.types import Header
from ..plan.edits import BlendShell
from ..plan.types import Plan, Take, references
from .expr import Expr, Read
from .scales import belongs_to_weight

#: The entries that define token numbers; models of one stack share them.
VOCABULARY = tuple(
    f"tokenizer.ggml.{name}"
    for name in ("model", "pre", "tokens", "token_type", "scores", "merges")
)


def check_alike(headers: Sequence[Header], plan: Plan) -> None:
    """Refuse models that do not fit together in this plan, naming the first difference.

    A blend of whole models needs equal tensors and tokenizers. Where only layers are taken
    or blended, only those must have the shapes of the model that gives the rest; a stack
    needs one vocabulary besides, for its layers were trained on token numbers.

    Raises:
        ArchitectureError: another architecture, tokenizer, tensor or shape.
    """
    first = headers[plan.shell]
    whole = any(isinstance(edit, BlendShell) for edit in plan.edits)
    for number, other in enumerate(headers):
        if number == plan.shell:
            continue
        if other.architecture != first.architecture:
            raise ArchitectureError(
                "the models are of different architectures",
                file=other.path,
                expected=first.architecture,
                found=other.architecture,
            )
        if other.order != first.order:
            raise FormatError("byte order differs from the other source", file=other.path)
        if whole:
            _check_tensors(first, other)
            _check_tokenizer(first, other, _tokenizer_keys(first, other))
            continue
        used = {r.index for b in plan.stack for r in references(b) if r.source == number}
        _check_layers(first, other, used)
        if any(isinstance(b, Take) and b.ref.source == number for b in plan.stack):
            _check_tokenizer(first, other, VOCABULARY)


def _check_layers(first: Header, other: Header, used: Collection[int]) -> None:
    """The layers' tensors must have the shapes that some layer of the first model has."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for index in range(first.n_layers):
        for suffix, tensor in first.layer_tensors(index).items():
            shapes.setdefault(suffix, set()).add(tensor.shape)
    for index in sorted(used):
        for suffix, tensor in other.layer_tensors(index).items():
            if suffix not in shapes and _optional(other, tensor.name):
                continue
            if tensor.shape not in shapes.get(suffix, ()):
                known = sorted(map(list, shapes.get(suffix, ())))
                raise ArchitectureError(
                    "the models are of different shapes",
                    file=other.path,
                    tensor=tensor.name,
                    expected=" or ".join(map(str, known)) or "none",
                    found=list(tensor.shape),
                )


def _tokenizer_keys(first: Header, other: Header) -> list[str]:
    both = dict.fromkeys([*first.metadata, *other.metadata])
    return [key for key in both if key.startswith("tokenizer.ggml.")]


def _check_tensors(first: Header, other: Header) -> None:
    for name in [t.name for t in first.tensors] + [t.name for t in other.tensors]:
        ours, theirs = first.by_name.get(name), other.by_name.get(name)
        if ours is not None and theirs is not None and ours.shape == theirs.shape:
            continue
        if (ours is None or theirs is None) and _optional(other if ours is None else first, name):
            continue
        raise ArchitectureError(
            "the models are of different shapes",
            file=other.path,
            tensor=name,
            expected="none" if ours is None else list(ours.shape),
            found="none" if theirs is None else list(theirs.shape),
        )


def _optional(header: Header, name: str) -> bool:
    """Whether a model without the tensor is one with zeros (a bias) or ones (a scale) in it."""

    def get(wanted: str) -> Expr | None:
        tensor = header.by_name.get(wanted)
        return None if tensor is None else Read(0, tensor)

    return name.endswith(".bias") or belongs_to_weight(get, name)


def _check_tokenizer(first: Header, other: Header, keys: Collection[str]) -> None:
    for key in keys:
        ours, theirs = first.metadata.get(key), other.metadata.get(key)
        if ours is None and theirs is None:
            continue
        if ours is not None and theirs is not None and ours.raw == theirs.raw:
            continue
        if ours is None or theirs is None or ours.value != theirs.value:
            raise ArchitectureError(
                "the models have different tokenizers",
                file=other.path,
                tensor=key,
                expected=_entry(first, other, key),
                found=_entry(other, first, key),
            )


def _entry(header: Header, other: Header, key: str) -> str | None:
    """The value, or of an array the first entry that differs."""
    mine, theirs = header.metadata.get(key), other.metadata.get(key)
    if mine is None or theirs is None or mine.item_type is None or theirs.item_type is None:
        return short(mine) or "none"
    if len(mine) != len(theirs):
        return f"{len(mine)} entries"
    at = next(i for i, (a, b) in enumerate(zip(mine.value, theirs.value, strict=True)) if a != b)
    return f"entry {at} {mine.value[at]!r}"
