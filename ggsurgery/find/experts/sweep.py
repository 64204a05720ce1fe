"""How a model does with fewer experts, measured without writing a file.

The experts that would leave are masked in the loaded model (`runtime.expert_mask`), so every
ratio costs one pass over the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...arch.experts import mixture
from ...files.progress import Progress
from ...ggufio.header import read_header
from ...measure.metrics.perplexity import Perplexity, perplexity
from ...runtime.engine import Engine
from ...runtime.expert_mask import ExpertMask
from ...runtime.protocols import Tokens


@dataclass(frozen=True, slots=True)
class Candidate:
    """Experts of each layer that stay, and how they were chosen (`reap`, `random 1`)."""

    method: str
    keep: int
    kept: dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class SweepRow:
    """The perplexity of one candidate; `perplexity.chunks` pairs with the base's."""

    method: str
    keep: int
    perplexity: Perplexity

    def to_json(self, base: Perplexity) -> dict[str, Any]:
        return {
            "method": self.method,
            "keep": self.keep,
            "perplexity": self.perplexity.value,
            "stderr": self.perplexity.stderr,
            "ratio": self.perplexity.value / base.value,
            "windows": list(self.perplexity.chunks),
        }


def sweep_file(
    path: Path,
    candidates: Sequence[Candidate],
    text: str | Tokens,
    n_ctx: int,
    n_windows: int | None,
    n_threads: int | None = None,
    parse_special: bool = False,
    progress: Progress | None = None,
) -> tuple[Perplexity, list[SweepRow]]:
    """The perplexity of the whole model, and of each candidate.

    Made to be run by `runtime.worker.run`.

    Raises:
        EngineError: the graph does not show the router's scores, or the text is too short.
    """
    everyone = set(range(mixture(read_header(path)).n_experts))
    size, found = max(64, n_ctx), []
    with Engine.open(path, n_ctx=size, n_batch=size, n_threads=n_threads) as engine:

        def measure(done: int) -> Perplexity:
            def tick(n: int, total: int) -> None:
                if progress is not None:
                    progress(done * total + n, (len(candidates) + 1) * total)

            return perplexity(
                engine, text, n_ctx, n_windows, parse_special=parse_special, progress=tick
            )

        base = measure(0)
        for number, one in enumerate(candidates, 1):
            mask = ExpertMask({n: sorted(everyone - set(kept)) for n, kept in one.kept.items()})
            engine.set_hook(mask)
            row = SweepRow(one.method, one.keep, measure(number))
            mask.check(path)
            engine.set_hook(None)
            found.append(row)
    return base, found
