"""The plan of a quantization: types, sizes and fallbacks of every tensor, checked in advance.

The types come from llama.cpp's own dry run; the size of the file is computed to the byte.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..ggufio.constants import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFValueType
from ..ggufio.imatrix import Imatrix
from ..ggufio.types import Header, TensorInfo, Value, tensor_nbytes, type_id
from ..ggufio.writer import encode_header, padded
from ..surgery.fold_scales import applied_first
from ..surgery.layout import FileLayout
from .imatrix_need import tensor_needs_imatrix
from .quantize_call import Call, LogFacts

ALIGNMENT = 32  # llama.cpp's output always uses the default
FLOATS = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A tensor before and after; `wanted` is the type it could not take, None if it could."""

    name: str
    shape: tuple[int, ...]
    old: str
    new: str
    wanted: str | None
    nbytes: int


@dataclass(frozen=True)
class QuantizeResult:
    """The output that was (or, in a dry run, would be) written.

    Attributes:
        path: the output; None for a dry run.
        n_bytes: the file's size; bpw: bits of tensor data for each parameter.
        tensors: every tensor in file order.
        requantized: number of tensors that were already quantized and lose precision again.
        without_imatrix: quantized tensors that the imatrix has no entry for.
        folded_scales: how many separate scales are multiplied into their weights.
        warnings: of those scales.
    """

    src: Path
    path: Path | None
    ftype: str
    n_bytes: int
    bpw: float
    tensors: tuple[QuantizedTensor, ...]
    requantized: int
    without_imatrix: tuple[str, ...] = ()
    folded_scales: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def fallbacks(self) -> tuple[QuantizedTensor, ...]:
        """Tensors whose rows no block of the wanted type divides."""
        return tuple(t for t in self.tensors if t.wanted is not None)

    def to_json(self) -> dict[str, Any]:
        return {
            "file": None if self.path is None else str(self.path),
            "type": self.ftype,
            "bytes": self.n_bytes,
            "bpw": self.bpw,
            "tensor_types": {t.name: t.new for t in self.tensors},
            "fallbacks": {t.name: [t.wanted, t.new] for t in self.fallbacks},
            "requantized": self.requantized,
            "without_imatrix": list(self.without_imatrix),
            "folded_scales": self.folded_scales,
        }


def planned_result(
    header: Header, path: Path | None, ftype: str, facts: LogFacts, call: Call
) -> QuantizeResult:
    tensors = []
    for tensor in header.tensors:
        new = type_id(facts.types.get(tensor.name, tensor.type_name))
        size = tensor_nbytes(tensor.shape, new)
        wanted = facts.fallback.get(tensor.name)
        tensors.append(
            QuantizedTensor(
                tensor.name,
                tensor.shape,
                tensor.type_name,
                GGMLQuantizationType(new).name.lower(),
                None if wanted is None else wanted[0].lower(),
                tensor.nbytes if size is None else size,
            )
        )
    return QuantizeResult(
        header.path,
        path,
        ftype,
        _file_size(header, tensors, call),
        8 * sum(t.nbytes for t in tensors) / max(1, header.n_parameters),
        tuple(tensors),
        sum(t.old != t.new and not _is_float(t.old) for t in tensors),
    )


def requantized_warning(result: QuantizeResult, name: str) -> str | None:
    """A warning about requantization; None if the source has float types.

    Args:
        name: the source's name for the user.
    """
    if not result.requantized:
        return None
    kinds = sorted({t.old for t in result.tensors if not _is_float(t.old)})
    return (
        f"{name} is quantized already ({', '.join(kinds)}): {result.requantized} tensors "
        "are rounded a second time and keep both errors. Quantize the F16 or BF16 original "
        "if you have it; measure what it cost with: ggsurgery perplexity"
    )


def folded_result(planned: QuantizeResult, layout: FileLayout, header: Header) -> QuantizeResult:
    """The result of a layout into whose weights the scales of `planned` are multiplied."""
    sizes = {p.info.name: p.info.nbytes for p in layout.pieces}
    tensors = tuple(t for t in planned.tensors if t.name in sizes)
    bpw = 8 * sum(sizes.values()) / max(1, layout.n_parameters)
    folded = sum(t.name not in sizes and t.name.endswith(".scale") for t in planned.tensors)
    return replace(
        planned,
        n_bytes=layout.n_bytes,
        bpw=bpw,
        tensors=tensors,
        folded_scales=folded,
        warnings=tuple(applied_first(layout.pieces, [header])),
    )


def check_scales(planned: QuantizeResult) -> None:
    """Refuse an output matrix that leaves NVFP4 and keeps its scale.

    llama.cpp reads `output.scale` only beside an NVFP4 matrix (llama-model.cpp).

    Raises:
        EngineError: naming the way over BF16.
    """
    by_name = {t.name: t for t in planned.tensors}
    output, scale = by_name.get("output.weight"), by_name.get("output.scale")
    if output is not None and scale is not None and output.new != "nvfp4":
        raise EngineError(
            f"llama.cpp reads a separate scale of this matrix only beside nvfp4, not {output.new}",
            file=planned.src,
            tensor="output.weight",
            hint="Convert to BF16 first, which multiplies the scales into the weights: "
            "ggsurgery quantize --type BF16 IN OUT",
        )


def _is_float(kind: str) -> bool:
    return GGMLQuantizationType[kind.upper()] in FLOATS


def _file_size(header: Header, tensors: list[QuantizedTensor], call: Call) -> int:
    """The size of the file that llama.cpp will write, to the byte."""
    u32 = GGUFValueType.UINT32
    metadata = {k: v for k, v in header.metadata.items() if not k.startswith("split.")}
    metadata["general.quantization_version"] = Value.of(GGML_QUANT_VERSION, u32)
    metadata["general.file_type"] = Value.of(0, u32)
    for key, value in call.metadata:
        kind = GGUFValueType.STRING if isinstance(value, str) else u32
        metadata[key] = Value.of(as_written(value), kind)
    infos = [TensorInfo(t.name, t.shape, 0, 0, 0) for t in tensors]
    head = len(encode_header(metadata, infos, "<", ALIGNMENT))
    return head + sum(padded(t.nbytes, ALIGNMENT) for t in tensors)


def as_written(value: str | int) -> str | int:
    """A header entry as llama.cpp writes it: of a text the first 127 bytes."""
    return os.fsdecode(os.fsencode(value)[:127]) if isinstance(value, str) else value


def check(
    planned: QuantizeResult,
    header: Header,
    matrix: Imatrix | None,
    allow_requantize: bool,
    needs_imatrix: bool,
) -> None:
    """Refuse what would fail or harm: see `runtime.quantize.quantize`."""
    if needs_imatrix and matrix is None:
        raise EngineError(
            f"the type {planned.ftype} needs an importance matrix",
            file=header.path,
            hint="Make one with: ggsurgery imatrix MODEL OUT --text TEXT, then pass --imatrix OUT.",
        )
    check_requantized(planned, header.path, allow_requantize)
    if matrix is not None:
        check_imatrix(matrix, header, planned)


def check_requantized(planned: QuantizeResult, file: Path, allow_requantize: bool) -> None:
    """Refuse tensors that are already quantized, unless allowed.

    Args:
        file: the source's name for the user.

    Raises:
        EngineError: names the first of them.
    """
    if planned.requantized and not allow_requantize:
        first = next(t for t in planned.tensors if t.old != t.new and not _is_float(t.old))
        raise EngineError(
            f"{planned.requantized} tensors are quantized already",
            file=file,
            tensor=first.name,
            expected="f32, f16 or bf16",
            found=first.old,
            hint="Quantize the F16 or BF16 original, or set allow_requantize to true.",
        )


def check_imatrix(matrix: Imatrix, header: Header, planned: QuantizeResult) -> None:
    """Refuse an importance matrix that was not made of this model.

    Raises:
        EngineError: entries for tensors that the model lacks or of another size, or most of
            the layers' weights without an entry.
    """
    path = matrix.path
    hint = "After surgery let the entries follow the layers: ggsurgery imatrix remap."
    foreign = [n for n in matrix.entries if n not in header.by_name]
    if foreign:
        raise EngineError(
            f"the importance matrix is of another model: it has {len(foreign)} tensors that "
            f"{header.path.name} lacks ({', '.join(sorted(foreign)[:3])} …)",
            file=path,
            hint=hint,
        )
    for name, entry in matrix.entries.items():
        shape = header.by_name[name].shape
        size = shape[0] * (shape[2] if len(shape) > 2 else 1)
        if entry.sums.size != size and name != "token_embd.weight":
            raise EngineError(
                "the importance matrix is of another model",
                file=path,
                tensor=name,
                expected=f"{size} values",
                found=entry.sums.size,
                hint=hint,
            )
    weights = [t for t in planned.tensors if t.old != t.new and t.name.startswith("blk.")]
    lacking = lacking_entries(planned, matrix)
    for t in weights:
        if t.name in lacking and tensor_needs_imatrix(t.new, planned.ftype):
            raise EngineError(
                f"the importance matrix lacks a tensor that cannot become {t.new} without one",
                file=path,
                tensor=t.name,
                hint=hint,
            )
    if len(lacking) * 10 > len(weights):
        raise EngineError(
            f"the importance matrix lacks {len(lacking)} of {len(weights)} tensors "
            f"({', '.join(lacking[:3])} …)",
            file=path,
            hint=hint,
        )


def lacking_entries(planned: QuantizeResult, matrix: Imatrix) -> tuple[str, ...]:
    """Quantized tensors of layers that an importance matrix has no entry for."""
    changed = (t.name for t in planned.tensors if t.old != t.new and t.name.startswith("blk."))
    return tuple(name for name in changed if name not in matrix.entries)


def written_result(
    planned: QuantizeResult, made: Header, out: Path, facts: LogFacts
) -> QuantizeResult:
    """The planned result with what is in the file: the file is right if they differ."""
    by_name = {t.name: t for t in planned.tensors}
    tensors = tuple(
        QuantizedTensor(
            t.name, t.shape, by_name[t.name].old, t.type_name, by_name[t.name].wanted, t.nbytes
        )
        for t in made.tensors
    )
    return QuantizeResult(
        planned.src,
        out,
        planned.ftype,
        sum(made.file_size),
        8 * made.n_bytes / max(1, made.n_parameters),
        tensors,
        planned.requantized,
        facts.without_imatrix,
        planned.folded_scales,
        planned.warnings,
    )
