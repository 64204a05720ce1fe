"""How much each part of a model suffers from fewer bits: measured on a text.

For each group of tensors (a kind of tensor, in the first, middle or last third of the layers)
a probe file is made in which only that group has few bits, and its KL divergence from the
source is measured. Divided by the relative error that those bits cause in the group's own
weights it gives the group's sensitivity: nats for each unit of error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.progress import Progress
from ..measure.base_file import BaseFile
from ..measure.metrics.kl import kl_from_file, write_base_file
from ..runtime import worker
from ..runtime.engine import Engine
from ..runtime.quantize import quantize
from .like import patterns

#: Tensor kinds whose sensitivities are alike, by the name's part before `.weight`.
KINDS: dict[str, tuple[str, ...]] = {
    "attention q, k": ("attn_q", "attn_k", "attn_qkv", "attn_kv_b", "attn_q_a", "attn_q_b"),
    "attention v": ("attn_v", "attn_v_b"),
    "attention output": ("attn_output", "attn_out"),
    "ffn gate, up": ("ffn_gate", "ffn_up", "ffn_gate_exps", "ffn_up_exps"),
    "ffn down": ("ffn_down", "ffn_down_exps"),
}

#: Files above this size are probed by kind alone, not also by depth: each probe rewrites it.
DEPTH_BELOW = 4 << 30


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One group: the KL (nats) of its probe, and the error in its weights that caused it."""

    group: str
    tensors: tuple[str, ...]
    kl: float
    error: float

    @property
    def value(self) -> float:
        """Nats for each unit of relative weight error."""
        return max(self.kl, 0.0) / self.error if self.error > 0 else 0.0


def group_of(name: str, layer: int | None, n_layers: int, by_depth: bool) -> str:
    """The group that a tensor belongs to."""
    if layer is None:
        return name.removesuffix(".weight")
    kind = name.split(".", 2)[2].removesuffix(".weight")
    label = next((g for g, kinds in KINDS.items() if kind in kinds), kind)
    if not by_depth:
        return label
    third = ("first", "middle", "last")[min(2, 3 * layer // max(1, n_layers))]
    return f"{label}, {third} layers"


def base_predictions(
    src: Path, text: str, out: Path, n_ctx: int, n_chunks: int, parse_special: bool
) -> None:
    """Keep the source's own predictions, in a worker."""
    worker.run(_write_base, src, text, out, n_ctx, n_chunks, parse_special)


def divergence(path: Path, base: Path, n_ctx: int) -> float:
    """Mean KL of a file from the kept predictions, nats; in a worker."""
    return worker.run(_kl, path, base, n_ctx)


def _write_base(
    src: Path, text: str, out: Path, n_ctx: int, n_chunks: int, parse_special: bool
) -> None:
    with Engine.open(src, n_ctx=n_ctx) as engine:
        tokens = engine.tokenize_array(text, parse_special=parse_special)
        write_base_file(str(out), engine, tokens, limit=max(2, n_chunks))


def _kl(path: Path, base: Path, n_ctx: int) -> float:
    with Engine.open(path, n_ctx=n_ctx) as engine:
        return float(kl_from_file(BaseFile(base), engine).kl.mean())


def probe(
    src: Path,
    groups: dict[str, list[str]],
    low: dict[str, str],
    base: Path,
    folder: Path,
    n_ctx: int,
    options: dict[str, Any],
    progress: Progress | None = None,
) -> dict[str, float]:
    """KL of each group's probe file, less that of the reference without low bits.

    Args:
        groups: tensor names of each group.
        low: the low type of each tensor.
        folder: where the probe files are made, one at a time.
    """

    def measure(types: dict[str, str]) -> float:
        path = folder / "probe.gguf"
        quantize(src, path, "Q8_0", tensor_types=patterns(types), force=True, **options)
        found = divergence(path, base, n_ctx)
        path.unlink()
        return found

    total = len(groups) + 1
    floor = measure({})
    if progress is not None:
        progress(1, total)
    result = {}
    for done, (group, names) in enumerate(groups.items(), 2):
        result[group] = measure({n: low[n] for n in names}) - floor
        if progress is not None:
            progress(done, total)
    return result
