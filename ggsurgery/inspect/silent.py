"""Files that llama.cpp loads without a message but runs differently from their metadata.

Read in src/llama-graph.cpp (build_moe_ffn) and src/models/deci.cpp, 0c1e570.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..arch import Finding
from ..ggufio.types import Header
from ..plan.text import format_layers

#: Architectures whose graphs take the number of experts of each layer.
_EXPERTS_BY_LAYER = ("nemotron_h", "nemotron_h_moe")


def silent_findings(header: Header) -> Iterator[Finding]:
    """Entries that some layers are run against."""
    yield from _experts(header)
    yield from _without_network(header)


def _experts(header: Header) -> Iterator[Finding]:
    """One number of experts is selected in all layers, and each layer's own is summed."""
    arch = header.architecture
    key = f"{arch}.expert_used_count"
    used = header.get(key)
    if not isinstance(used, list) or not used or arch in _EXPERTS_BY_LAYER:
        return
    mixtures = [n for n in range(min(header.n_layers, len(used))) if _is_mixture(header, n)]
    fewer = [n for n in mixtures if used[n] < used[0]]
    more = [n for n in mixtures if used[n] > used[0]]
    for layers, effect in (
        (fewer, "the others that the router selects are left out of the sum"),
        (more, "llama.cpp aborts on the missing ones"),
    ):
        if layers:
            yield Finding(
                "error",
                key,
                f"gives {used[layers[0]]} in layers {format_layers(layers)}, and llama.cpp selects "
                f"{used[0]} in all layers of {arch}, as layer 0 has: {effect}",
                f"`ggsurgery meta set {key} {used[0]} IN OUT` states one number.",
            )


def _is_mixture(header: Header, layer: int) -> bool:
    return "ffn_gate_inp.weight" in header.layer_tensors(layer)


def _without_network(header: Header) -> Iterator[Finding]:
    """deci's graph skips the rest of a layer of width 0, the sum with its attention included."""
    key = f"{header.architecture}.feed_forward_length"
    widths = header.get(key)
    if header.architecture != "deci" or not isinstance(widths, list):
        return
    lost = [
        n
        for n in range(min(header.n_layers, len(widths)))
        if widths[n] == 0 and "attn_output.weight" in header.layer_tensors(n)
    ]
    if lost:
        yield Finding(
            "error",
            key,
            f"is 0 in layers {format_layers(lost)}, which have attention: llama.cpp computes it "
            "and leaves it out",
            "Give the layers a network of 32 zero channels instead.",
        )
