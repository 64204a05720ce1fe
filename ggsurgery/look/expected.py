"""Which tensors a file of its architecture should have, and which it should not.

The names are those of the package gguf (`MODEL_TENSORS`); what a layer needs beyond that
is learnt from the file itself: layers of one kind have the same tensors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, MODEL_TENSORS, TENSOR_NAMES

from ..arch import Finding, LayerKind
from ..ggufio.types import Header

_ARCHITECTURES: dict[str, MODEL_ARCH] = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}

#: What no language model runs without, where its architecture has it at all.
_NEEDED = (MODEL_TENSOR.TOKEN_EMBD, MODEL_TENSOR.OUTPUT_NORM)

#: Ends of names that quantization tools add to any tensor.
_ADDED = (".scale", ".input_scale", ".weight_scale")


def missing_tensors(header: Header, kinds: Sequence[LayerKind]) -> Iterator[Finding]:
    """Tensors that llama.cpp will look for in vain."""
    arch = _ARCHITECTURES.get(header.architecture)
    listed = MODEL_TENSORS[arch] if arch is not None else []
    for needed in _NEEDED:
        name = f"{TENSOR_NAMES[needed]}.weight"
        if needed in listed and name not in header.by_name:
            yield Finding("error", name, f"missing in a {header.architecture} model", "")
    groups: dict[LayerKind, list[int]] = {}
    for layer, kind in enumerate(kinds):
        if header.layer_tensors(layer):
            groups.setdefault(kind, []).append(layer)
    for layers in groups.values():
        count = Counter(s for n in layers for s in header.layer_tensors(n))
        for layer in layers:
            for suffix, others in count.items():
                lonely = suffix not in header.layer_tensors(layer)
                if lonely and others > len(layers) / 2 and others > 1:
                    yield Finding(
                        "error" if suffix.endswith(".weight") else "warning",
                        f"blk.{layer}.{suffix}",
                        f"missing, {others} other layers of its kind have it",
                        "",
                    )


def foreign_tensors(header: Header, n_tail: int) -> Iterator[Finding]:
    """Tensors that the architecture does not have: llama.cpp refuses a file with any.

    The last `n_tail` layers (MTP) are left out: gguf lists theirs for few architectures.
    """
    arch = _ARCHITECTURES.get(header.architecture)
    if arch is None:
        return
    patterns = [
        re.escape(TENSOR_NAMES[t]).replace(r"\{bid\}", r"\d+").replace(r"\{xid\}", r"\d+")
        for t in MODEL_TENSORS[arch]
    ]
    trunk = header.n_layers - n_tail
    known = re.compile(rf"rope_freqs\.weight|(?:{'|'.join(patterns)})(?:\.weight|\.bias)?")
    foreign = [
        t.name
        for t in header.tensors
        if not known.fullmatch(t.name)
        and not t.name.endswith(_ADDED)
        and (t.layer is None or t.layer < trunk)
    ]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        yield Finding(
            "warning",
            foreign[0] + more,
            f"the package gguf knows no such tensor in {header.architecture}",
            "llama.cpp refuses files with tensors that it does not use.",
        )
