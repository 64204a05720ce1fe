"""Counts in the metadata that llama.cpp's loader checks, and aborts on or refuses.

Source: `llama_model_base::load_hparams` (src/llama-model.cpp, 0c1e570).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..arch import Finding
from ..arch.asked import surveyed
from ..arch.dimensions import dimensions
from ..ggufio.types import Header

MAX_LAYERS, MAX_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS (llama-hparams.h)

#: Architectures that rotate whole heads only.
_WHOLE_HEADS = ("llama", "llama-embed", "deci", "falcon")


def count_findings(header: Header) -> Iterator[Finding]:
    """Numbers of layers, experts and rotated dimensions that no model of llama.cpp can have."""
    arch = header.architecture
    if arch not in surveyed():
        return
    layers = header.number(f"{arch}.block_count")
    if layers is not None and not 0 < layers <= MAX_LAYERS:
        yield _wrong(f"{arch}.block_count", f"1 to {MAX_LAYERS}", layers)
    experts = header.number(f"{arch}.expert_count") or 0
    key = f"{arch}.expert_used_count"
    found = header.get(key, 0)
    used = max(found, default=0) if isinstance(found, list) else found
    if experts > MAX_EXPERTS:
        yield _wrong(f"{arch}.expert_count", f"at most {MAX_EXPERTS}", experts)
    if type(used) is int and arch not in ("hunyuan-dense", "hunyuan_vl"):
        if experts and not 0 < used <= experts:
            yield _wrong(key, f"1 to {experts}, the number of experts", used)
        elif not experts and used:
            yield _wrong(key, f"0 without {arch}.expert_count", used)
    rotated, head = header.number(f"{arch}.rope.dimension_count"), dimensions(header, 0).get("key")
    if arch in _WHOLE_HEADS and None not in (rotated, head) and rotated != head:
        yield _wrong(f"{arch}.rope.dimension_count", f"{head}, the length of a head", rotated)


def _wrong(key: str, expected: str, found: object) -> Finding:
    return Finding("error", key, f"expected {expected}, found {found}: llama.cpp refuses the file")
