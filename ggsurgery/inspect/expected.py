"""The tensors that a file of an architecture should have, and those it should not.

The tensors that llama.cpp's loader requests are data (`arch.asked`); the package gguf lists further
names. An architecture in neither gets warnings only, since its tensors are guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ..arch import Finding, LayerKind
from ..arch.asked import alternatives, asked, ignored_scales, knows, layer_kinds, pattern_of
from ..ggufio.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES
from ..ggufio.types import Header
from ..plan.text import format_layers

_ARCHITECTURES: dict[str, MODEL_ARCH] = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}

#: Mixtures of experts of before 2024: one tensor an expert (blk.0.ffn_gate.3.weight).
_SINGLE_EXPERT = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight")


def missing_tensors(
    header: Header, kinds: Sequence[LayerKind], n_tail: int, *, certain: bool
) -> Iterator[Finding]:
    """Tensors that llama.cpp needs and the file lacks.

    Args:
        n_tail: layers at the end (MTP), of which less is known.
        certain: the kinds come from the architecture's rules; without them, layers that
            differ may be of kinds that the rules do not know.
    """
    yield from _missing_in_every_layer(header, header.n_layers - n_tail, certain)
    known = asked(header.architecture)
    for pattern, tensor in known.items():
        needed = "{}" not in pattern and tensor.required and tensor.always
        if needed and pattern not in header.by_name:
            yield Finding("error", pattern, f"missing in a {header.architecture} model", "")
    groups: dict[LayerKind, list[int]] = {}
    for layer, kind in enumerate(kinds):
        if header.layer_tensors(layer):
            groups.setdefault(kind, []).append(layer)
    sets = Counter(frozenset(header.layer_tensors(n)) for n in range(len(kinds)))
    for layers in groups.values():
        count = Counter(s for n in layers for s in header.layer_tensors(n))
        for layer in layers:
            if not certain and sets[frozenset(header.layer_tensors(layer))] > 1:
                continue  # perhaps a kind of its own
            own = {f"blk.{{}}.{s}" for s in header.layer_tensors(layer)}
            for suffix, others in count.items():
                pattern = f"blk.{{}}.{suffix}"
                if pattern in own or others <= len(layers) / 2 or others < 2:
                    continue
                if own & set(alternatives(pattern)):
                    continue
                sure = certain and pattern in known and known[pattern].required
                yield Finding(
                    "error" if sure else "warning",
                    f"blk.{layer}.{suffix}",
                    f"missing, {others} other layers "
                    + ("of its kind have it" if certain else "have it"),
                    "",
                )


def _missing_in_every_layer(header: Header, n_layers: int, certain: bool) -> Iterator[Finding]:
    """Tensors that no layer has, and layers of the architecture cannot load without.

    A layer with a tensor that the survey has not met is of a kind with other needs.
    """
    known, kinds = asked(header.architecture), layer_kinds(header.architecture)
    layers = {
        n: {f"blk.{{}}.{suffix}" for suffix in header.layer_tensors(n)} for n in range(n_layers)
    }
    anywhere = set().union(*layers.values())
    missing: dict[str, list[int]] = {}
    for layer, own in layers.items():
        if not own or not kinds or not all(knows(known, pattern) for pattern in own):
            continue
        lacking = min(
            ([p for p in kind if p not in own and not own & {*alternatives(p)}] for kind in kinds),
            key=len,
        )
        for pattern in lacking:
            missing.setdefault(pattern, []).append(layer)
    for pattern in sorted(missing.keys() - anywhere):
        yield Finding(
            "error" if certain else "warning",
            pattern.format(format_layers(missing[pattern])),
            f"missing: llama.cpp does not load a layer of {header.architecture} without it",
            "",
        )


def foreign_tensors(header: Header, n_tail: int) -> Iterator[Finding]:
    """Tensors that the architecture does not have: llama.cpp refuses a file with any.

    The last `n_tail` layers (MTP) are left out: their names are listed for few architectures.
    """
    single = [t.name for t in header.tensors if _SINGLE_EXPERT.fullmatch(t.name)]
    if single:
        yield Finding(
            "error",
            single[0] + _more(single),
            "one tensor an expert: llama.cpp reads the experts of a layer from one tensor "
            "(ffn_gate_exps, ffn_up_exps, ffn_down_exps) and refuses the file",
            "Convert the original model again with convert_hf_to_gguf.py.",
        )
    arch = _ARCHITECTURES.get(header.architecture)
    known = asked(header.architecture)
    if arch is None and not known:
        return
    trunk = header.n_layers - n_tail
    listed = _listed(arch) if arch is not None else re.compile(r"rope_freqs\.weight")
    foreign = [
        t.name
        for t in header.tensors
        if t.name not in single
        and not listed.fullmatch(re.sub(r"\.(scale|input_scale|weight_scale)$", "", t.name))
        and not knows(known, pattern_of(t.name)[0])
        and (t.layer is None or t.layer < trunk)
    ]
    if foreign:
        yield Finding(
            "warning",
            foreign[0] + _more(foreign),
            f"neither llama.cpp nor the package gguf has such a tensor in {header.architecture}",
            "llama.cpp refuses files with tensors that it does not use.",
        )


def scale_findings(header: Header) -> Iterator[Finding]:
    """Separate scales that a converter wrote and llama.cpp does not apply."""
    if names := sorted(ignored_scales(header)):
        yield Finding(
            "warning",
            names[0] + _more(names),
            f"llama.cpp reads this scale, and its graph of {header.architecture} leaves it out",
            "Operations that compute with the weight, such as `merge` or `quantize --type BF16`, "
            "apply it.",
        )


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _listed(arch: MODEL_ARCH) -> re.Pattern[str]:
    patterns = [
        re.escape(TENSOR_NAMES[t]).replace(r"\{bid\}", r"\d+").replace(r"\{xid\}", r"\d+")
        for t in MODEL_TENSORS[arch]
    ]
    return re.compile(rf"rope_freqs\.weight|(?:{'|'.join(patterns)})(?:\.weight|\.bias)?")
