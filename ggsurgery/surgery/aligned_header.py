"""Encode a header so long that copied tensors can share their blocks with the source's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..ggufio.changes import PADDING_KEY
from ..ggufio.constants import GGUFValueType
from ..ggufio.copying import SHARE_BLOCK
from ..ggufio.types import ByteOrder, TensorInfo, Value
from ..ggufio.writer import encode_header


def aligned_header(
    metadata: dict[str, Value],
    infos: Sequence[TensorInfo],
    copies: Sequence[tuple[int, TensorInfo]],
    order: ByteOrder,
    alignment: int,
) -> tuple[dict[str, Value], bytes]:
    """The encoded header, padded so that copies are block-aligned.

    Extents can be shared only where source and target positions agree modulo the block
    size, so the header gets filler that aligns as many copied bytes as possible.

    Args:
        copies: for each copied tensor, where its bytes are in the source's file.
    """
    plain = encode_header(metadata, infos, order, alignment)
    shifts: Counter[int] = Counter()
    for source, info in copies:
        if info.nbytes >= SHARE_BLOCK:
            shifts[(source - info.offset) % SHARE_BLOCK] += info.nbytes
    if not shifts:
        return metadata, plain
    ((shift, _),) = shifts.most_common(1)
    if (shift - len(plain)) % SHARE_BLOCK == 0:
        return metadata, plain
    filled = metadata | {PADDING_KEY: Value.of("", GGUFValueType.STRING, order=order)}
    start = len(encode_header(filled, infos, order, 1))
    missing = (shift - start) % SHARE_BLOCK
    filled[PADDING_KEY] = Value.of(" " * missing, GGUFValueType.STRING, order=order)
    return filled, encode_header(filled, infos, order, alignment)
