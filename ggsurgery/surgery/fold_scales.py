"""A whole model with its separate scales multiplied into the weights, as a file layout.

For conversions to F32, F16 and BF16: llama.cpp converts a weight and leaves its scale beside
it (see `blend.scales`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..arch.asked import ignored_scales
from ..ggufio.constants import GGML_QUANT_VERSION, GGUFValueType, Keys
from ..ggufio.types import Header, Value, tensor_nbytes, type_id
from ..ggufio.writer import TENSOR_ALIGNMENT, encode_header
from ..tensors.expr import Expr, Read, reads
from ..tensors.scales import belongs_to_weight, effective
from .layout import Compute, Copy, FileLayout, Piece, place

SPLIT = "split."


def has_scales(header: Header) -> bool:
    """Whether any weight of the file has a scale beside it."""
    get = _tensors(header).get
    return any(belongs_to_weight(get, t.name) for t in header.tensors)


def applied_first(pieces: Iterable[Piece], headers: Sequence[Header]) -> list[str]:
    """A warning of scales that llama.cpp leaves out of the input and the output contains.

    Args:
        headers: of the inputs that the pieces are computed from.
    """
    ignored = [ignored_scales(header) for header in headers]
    names = {
        read.tensor.name: headers[read.source].architecture
        for piece in pieces
        if isinstance(piece.job, Compute)
        for read in reads(piece.job.expr)
        if read.tensor.name in ignored[read.source]
    }
    if not names:
        return []
    first, arch = min(names.items())
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [
        f"{first}{more}: multiplied into the computed weights. llama.cpp's graph of {arch} leaves "
        "these scales out, so there the output computes with numbers that the input lacks"
    ]


def folded_layout(header: Header, types: Mapping[str, str], file_type: int) -> FileLayout:
    """The file without scales, otherwise as llama-quantize writes it.

    Args:
        types: the new type of each tensor by name; a tensor that is not named keeps its own.
        file_type: `general.file_type` of the output.
    """
    exprs = _tensors(header)
    pieces = []
    for tensor in header.tensors:
        expr = effective(exprs.get, tensor.name)
        if expr is None or belongs_to_weight(exprs.get, tensor.name):
            continue
        kind = type_id(types.get(tensor.name, tensor.type_name))
        size = tensor_nbytes(tensor.shape, kind)
        same = isinstance(expr, Read) and kind == tensor.type
        info = replace(tensor, type=kind, nbytes=tensor.nbytes if size is None else size)
        pieces.append(Piece(info, Copy(0, tensor) if same else Compute(expr)))
    metadata = {k: v for k, v in header.metadata.items() if not k.startswith(SPLIT)}
    metadata.pop(Keys.General.ALIGNMENT, None)
    metadata[Keys.General.QUANTIZATION_VERSION] = _number(GGML_QUANT_VERSION)
    metadata[Keys.General.FILE_TYPE] = _number(file_type)
    placed = tuple(place(pieces, TENSOR_ALIGNMENT))
    encoded = encode_header(metadata, [p.info for p in placed], header.order, TENSOR_ALIGNMENT)
    return FileLayout(metadata, placed, header.order, TENSOR_ALIGNMENT, encoded, ())


def _number(value: int) -> Value:
    return Value.of(value, GGUFValueType.UINT32)


def _tensors(header: Header) -> dict[str, Expr]:
    return {t.name: Read(0, t) for t in header.tensors}
