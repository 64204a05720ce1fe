"""The error for logits that are not numbers: it names the layer in which that begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import EngineError
from .protocols import LanguageModel, Tokens


def not_finite(
    engine: LanguageModel | None,
    tokens: Sequence[int] | Tokens,
    where: str,
    file: Path | None = None,
) -> EngineError:
    """The error to raise after `tokens` gave NaN or infinity; decodes them again.

    Args:
        engine: the model; None if it cannot decode these tokens by itself. where: what was
        measured, for the message: `window 3`.
        file: the model to name; None names the engine's.
    """
    node = None if engine is None else engine.first_nonfinite(tokens)
    layer = re.search(r"-(\d+)$", node or "")
    place = f"first in graph node {node}" if node else "only in the logits"
    tensors = f"the tensors blk.{layer[1]}.*" if layer else "the tensors outside the layers"
    return EngineError(
        f"{where}: the model's logits are not numbers (NaN or infinity), {place}",
        file=file or getattr(engine, "path", None),
        hint=f"One of {tensors} is damaged or too large for its type; `ggsurgery diff` with the "
        f"original shows which tensors changed.",
    )
