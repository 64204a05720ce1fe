"""What a model says of itself: its name and size label, told anew after surgery."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gguf.constants import GGUFValueType, Keys
from gguf.utility import size_label

from .ggufio.types import TensorInfo, Value
from .plan.recipe import OPERATIONS

_DONE = re.compile(r"^(?P<name>.*) \((?P<done>\S[^()]*)\)$")


def counted_size_label(tensors: Iterable[TensorInfo], n_experts: int) -> str:
    """The size label of the GGUF naming convention (`135M`, `8x7B`), counted from shapes."""
    shared = expert = total = 0
    for tensor in tensors:
        total += tensor.n_elements
        if "_exps." in tensor.name:
            expert += tensor.n_elements // tensor.shape[-1]
        else:
            shared += tensor.n_elements
    return str(size_label(total, shared, expert, n_experts if expert else 0))


def new_identity(
    metadata: dict[str, Value], label: str, done: str, name: str | None
) -> dict[str, Value]:
    """Name and size label that tell the new truth.

    Args:
        metadata: of the source.
        label: the counted size label.
        done: the operations in words, put behind the old name.
        name: the name that the user wants instead.

    Returns:
        The entries to set. A label that the source does not have is not added.
    """
    entries: dict[str, Value] = {}
    old_label = _text(metadata, Keys.General.SIZE_LABEL)
    if old_label is not None:
        entries[Keys.General.SIZE_LABEL] = Value.of(label, GGUFValueType.STRING)
    old_name = _text(metadata, Keys.General.NAME)
    if name is None and old_name is not None and done:
        plain = _with_label(old_name, old_label, label)
        before = _DONE.match(plain)
        if before and before["done"].split()[0] in OPERATIONS:  # operated on here before
            plain, done = before["name"], f"{before['done']}; {done}"
        name = f"{plain} ({done})"
    if name is not None:
        entries[Keys.General.NAME] = Value.of(name, GGUFValueType.STRING)
    return entries


def _with_label(name: str, old: str | None, new: str) -> str:
    """The name with its size replaced where it carries one: `SmolLM2 135M` → `SmolLM2 131M`."""
    if not old:
        return name
    return re.sub(rf"(?<![\w.]){re.escape(old)}(?![\w.])", new, name, flags=re.IGNORECASE)


def _text(metadata: dict[str, Value], key: str) -> str | None:
    value = metadata.get(key)
    if value is None or value.type is not GGUFValueType.STRING:
        return None
    return str(value.value)
