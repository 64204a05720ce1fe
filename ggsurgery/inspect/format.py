"""Format errors that ggml refuses although the header can be read.

The rules are those of `gguf_init_from_file` (ggml/src/gguf.cpp) and of the memory mapping
in llama.cpp 0c1e570; tests/fuzz/against_ggml.py compares the verdicts on mutated files.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..arch import Finding
from ..ggufio.types import REMOVED_TYPES, Header, block_size
from ..ggufio.writer import TENSOR_ALIGNMENT, padded

_REWRITE = "Any command that writes a file fixes it: ggsurgery meta set general.name NAME IN OUT"


def format_findings(header: Header) -> Iterator[Finding]:
    """Tensor types, offsets and alignment that ggml does not take."""
    yield from _types(header)
    yield from _offsets(header)
    yield from _alignment(header)
    if header.order == ">":
        yield Finding(
            "warning",
            "file header",
            "big-endian: llama.cpp loads the file only on a big-endian machine",
            "convert_endian.py of llama.cpp's gguf-py swaps the bytes.",
        )


def _types(header: Header) -> Iterator[Finding]:
    for tensor in header.tensors:
        if block_size(tensor.type) is not None:
            continue
        if tensor.type in REMOVED_TYPES:
            yield Finding(
                "error",
                tensor.name,
                f"has type {tensor.type_name} ({tensor.type}), which was removed from ggml",
                "Quantize the original model again; for q4_0_4_4 and its kin, to q4_0 or iq4_nl.",
            )
        else:
            yield Finding(
                "error",
                tensor.name,
                f"has type {tensor.type}, which ggml does not have",
                "The file is damaged, or made for a newer or another version of ggml.",
            )


def _offsets(header: Header) -> Iterator[Finding]:
    for shard in range(len(header.paths)):
        expected = 0
        for tensor in (t for t in header.tensors if t.shard == shard):
            if tensor.offset != expected:
                yield Finding(
                    "error",
                    tensor.name,
                    f"is at offset {tensor.offset}, llama.cpp expects {expected}: tensors "
                    "must follow each other without gaps, in the order of the list",
                    _REWRITE,
                )
            expected = padded(tensor.offset + tensor.nbytes, header.alignment)


def _alignment(header: Header) -> Iterator[Finding]:
    """llama.cpp maps the data as it lies and aborts if its start is not aligned for ggml."""
    if header.alignment >= TENSOR_ALIGNMENT or not header.tensors:
        return
    starts = {header.data_offset[t.shard] + t.offset for t in header.tensors}
    first = min(starts)
    if first % TENSOR_ALIGNMENT:
        yield Finding(
            "error",
            "general.alignment",
            f"is {header.alignment} and the tensor data begins at byte {first}; llama.cpp expects "
            f"a multiple of {TENSOR_ALIGNMENT} and aborts when it maps the file",
            _REWRITE,
        )
    else:
        yield Finding(
            "warning",
            "general.alignment",
            f"is {header.alignment}, below ggml's {TENSOR_ALIGNMENT}: the file loads only because "
            "its data happens to begin at a multiple of that",
            _REWRITE,
        )
