"""Types: the kind of a layer, and the changes of a surgery outside the copied tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..ggufio.types import Value
from ..tensors.expr import Expr

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """How llama.cpp runs one layer.

    Args:
        attention: `full`, `window`, `chunked`, `symmetric`, `recurrent`, `hybrid` (both in
            parallel) or `none`.
        window: tokens of a windowed or chunked attention.
        ffn: `dense`, `moe` or `none`.
        rope: `rope`, or `none` where positions are not rotated.
        mtp: a tail layer that predicts further tokens (MTP / nextn).
        shared_kv: attends over the keys and values of an earlier layer.
        extra: further properties by name that depend on the position in the stack.
    """

    attention: str = "full"
    window: int | None = None
    ffn: str = "dense"
    rope: str = "rope"
    mtp: bool = False
    shared_kv: bool = False
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """Readable form: `window 512, MoE`, `full, no rope`, `recurrent`."""
        words = []
        if self.mtp:
            words.append("MTP")
        if self.attention != "none":
            words.append(f"{self.attention} {self.window}" if self.window else self.attention)
        if self.rope == "none" and self.attention not in ("recurrent", "none"):
            words.append("no rope")
        if self.shared_kv:
            words.append("shared KV")
        words += {"dense": ["dense"], "moe": ["MoE"]}.get(self.ffn, [])
        words += [
            name if value is True else f"{name} {value}"
            for name, value in self.extra
            if value not in (None, False)
        ]
        return ", ".join(words) or "empty"


@dataclass(frozen=True, slots=True)
class Finding:
    """One error or doubtful point in a file, for `verify`."""

    severity: Severity
    where: str
    problem: str
    hint: str = ""

    @property
    def message(self) -> str:
        return f"{self.problem}. {self.hint}" if self.hint else self.problem


@dataclass(slots=True)
class MetadataChange:
    """Changes to the output's header and shell besides the copied layers.

    `set` holds metadata entries. `tensors` maps an output tensor's name to its expression, for
    tensors that are not a plain copy of their source.
    """

    set: dict[str, Value] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    tensors: dict[str, Expr] = field(default_factory=dict)
