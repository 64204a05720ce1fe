"""The descriptive entries of a model: its name, size label and file type, updated after surgery."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..ggufio.constants import (
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFValueType,
    Keys,
    LlamaFileType,
)
from ..ggufio.types import TensorInfo, Value
from ..plan.recipe import operations

#: Threshold of a unit, its factor and its letter; smaller counts are in thousands.
_UNITS = ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (0, 1e-3, "K"))

#: Types that are not quantized, whose layout has no version.
_FLOATS = {int(GGMLQuantizationType[n]) for n in ("F32", "F16", "BF16", "F64")}

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
    if expert and n_experts:
        return f"{n_experts}x{_rounded(shared + expert)}"
    return _rounded(total)


def _rounded(count: int) -> str:
    """A number of parameters in the unit below it, with two digits at least.

    As gguf-py's `size_label`, which takes numpy to import: a test compares the two.
    """
    factor, unit = next(u[1:] for u in _UNITS if count > u[0] or not u[0])
    scaled = count * factor
    whole = round(scaled)
    decimals = 0 if whole >= 10 else 1 if whole else 2
    return f"{scaled:.{decimals}f}{unit}"


def new_identity(
    metadata: dict[str, Value], label: str, done: str, name: str | None
) -> dict[str, Value]:
    """Name and size label of the new model.

    Args:
        metadata: of the source.
        label: the counted size label.
        done: the operations in words, appended to the old name. name: the name that the user chose
            instead.

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
        if before and before["done"].split()[0] in operations():  # operated on here before
            plain, done = before["name"], f"{before['done']}; {done}"
        name = f"{plain} ({done})"
    if name is not None:
        entries[Keys.General.NAME] = Value.of(name, GGUFValueType.STRING)
    return entries


def new_file_type(
    metadata: Mapping[str, Value], before: Sequence[TensorInfo], after: Sequence[TensorInfo]
) -> dict[str, Value]:
    """The new file type where most weights have another tensor type than before.

    A file type names the type of most weights; a missing one is not added, and a more specific one
    (Q4_K_M) stays if the weights keep their types.
    """
    key, kind = Keys.General.FILE_TYPE, _main_type(after)
    if key not in metadata or kind is None or kind == _main_type(before):
        return {}
    names = (f"ALL_{kind}", f"MOSTLY_{kind}", f"MOSTLY_{kind}_M")
    known = LlamaFileType.__members__
    number = next((int(known[n]) for n in names if n in known), None)
    return {} if number is None else {key: Value.of(number, GGUFValueType.UINT32)}


def new_quantization_version(
    metadata: Mapping[str, Value], computed: Iterable[TensorInfo]
) -> dict[str, Value]:
    """The version of ggml's quantized formats, where tensors were quantized and none is named."""
    key = Keys.General.QUANTIZATION_VERSION
    if key in metadata or all(t.type in _FLOATS for t in computed):
        return {}
    return {key: Value.of(GGML_QUANT_VERSION, GGUFValueType.UINT32)}


def _main_type(tensors: Sequence[TensorInfo]) -> str | None:
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.type_name.upper()] += tensor.n_elements
    return max(weights, key=weights.__getitem__, default=None)


def _with_label(name: str, old: str | None, new: str) -> str:
    """The name with its size replaced where it carries one: `SmolLM2 135M` → `SmolLM2 131M`."""
    if not old:
        return name
    return re.sub(rf"(?<![\w.]){re.escape(old)}(?![\w.])", new, name, flags=re.IGNORECASE)


def _text(metadata: dict[str, Value], key: str) -> str | None:
    value = metadata.get(key)
    if value is None or value.type != GGUFValueType.STRING:
        return None
    return str(value.value)
