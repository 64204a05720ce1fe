"""Rank the experts of a mixture by what they do for some texts.

reap       Σ_t g_j(t) ‖f_j(x_t)‖ / n_j    (Lasby et al. 2026; g sums to 1 over a token's experts)
ean        Σ_t ‖f_j(x_t)‖                  (expert activation norm)
frequency  n_j, the tokens that the router gave expert j

Sums run over the tokens t that the router gave expert j.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...arch.experts import Mixture, mixture
from ...errors import EngineError, PlanError
from ...files.progress import Progress
from ...ggufio.header import read_header
from ...ggufio.types import Header
from ...measure.windows import Windows
from ...plan.text import format_layers
from ...runtime.engine import Engine
from ...runtime.expert_nodes import ExpertHook, ExpertSums

F64 = NDArray[np.float64]
#: What a ranking measures.
Method = Literal["reap", "ean", "frequency"]

#: Experts whose largest output is above both quantiles' bound are guarded: a share of all
#: experts, and of the largest of them (Su et al. 2025, "super experts"; REAP's code).
GUARD_QUANTILE, GUARD_SHARE = 99.5, 0.1
#: The guard looks at the layers in this first part of the model.
GUARD_DEPTH = 0.75
#: With fewer tokens per expert on average, a ranking is mostly chance.
FEW_TOKENS = 50
#: An expert belongs to a text that needs it this many times as much as the others on average.
OWN_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class TextSums:
    """Statistics of the experts on one text; arrays are float64 [layers, n_experts]."""

    name: str
    n_tokens: int
    counts: F64
    saliency: F64
    norms: F64

    def score(self, method: Method) -> F64:
        """By one of the measured methods; 0 where the text gave an expert no token."""
        match method:
            case "reap":
                found: F64 = self.saliency / np.maximum(self.counts, 1)
                return found
            case "ean":
                return self.norms
            case "frequency":
                return self.counts
        raise ValueError(method)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The experts of a model over one or several texts.

    Attributes:
        layers: the layers that have experts; row i of every array is layer `layers[i]`.
        largest: the largest magnitude in an expert's output over all texts.
        unlikeness: of each pair of experts over all texts, [layers, n_experts, n_experts]; None
            unless asked for.
    """

    file: Path
    mixture: Mixture
    layers: tuple[int, ...]
    texts: tuple[TextSums, ...]
    largest: F64
    unlikeness: F64 | None = None

    def pooled(self, names: Sequence[str] = ()) -> TextSums:
        """All texts, or those named, as one.

        Raises:
            PlanError: no such text.
        """
        for name in names:
            if name not in {t.name for t in self.texts}:
                known = ", ".join(t.name for t in self.texts)
                raise PlanError(f"the ranking has no text {name!r}", expected=known)
        chosen = [t for t in self.texts if not names or t.name in names]
        return TextSums(
            "+".join(t.name for t in chosen),
            sum(t.n_tokens for t in chosen),
            *(
                np.sum([getattr(t, part) for t in chosen], axis=0)
                for part in ("counts", "saliency", "norms")
            ),
        )

    def unmeasured(self, names: Sequence[str] = ()) -> dict[int, tuple[int, ...]]:
        """The experts of each layer that no token reached; layers without any are left out."""
        counts = self.pooled(names).counts
        found = {
            layer: tuple(map(int, np.flatnonzero(row == 0)))
            for layer, row in zip(self.layers, counts, strict=True)
        }
        return {layer: experts for layer, experts in found.items() if experts}

    def guarded(self) -> dict[int, tuple[int, ...]]:
        """Experts whose outputs are far larger than all others', which no method may drop."""
        early = [i for i, n in enumerate(self.layers) if n < GUARD_DEPTH * (max(self.layers) + 1)]
        values = self.largest[early]
        if not values.size or not values.max() > 0:
            return {}
        bound = max(float(np.percentile(values, GUARD_QUANTILE)), values.max() * GUARD_SHARE)
        found = {
            self.layers[i]: tuple(map(int, np.flatnonzero(self.largest[i] > bound))) for i in early
        }
        return {layer: experts for layer, experts in found.items() if experts}

    def own(self, method: Method) -> dict[str, dict[int, tuple[int, ...]]]:
        """For each text the experts that it needs far more than the other texts do."""
        if len(self.texts) < 2:
            return {}
        shares = np.stack([_shares(t.score(method)) for t in self.texts])
        others = (shares.sum(axis=0) - shares) / (len(shares) - 1)
        high = shares > OWN_FACTOR * others
        return {
            text.name: {
                layer: tuple(map(int, np.flatnonzero(row)))
                for layer, row in zip(self.layers, rows, strict=True)
                if row.any()
            }
            for text, rows in zip(self.texts, high, strict=True)
        }

    def to_json(self, method: Method) -> dict[str, Any]:
        rows = [
            {
                "layer": layer,
                "texts": {
                    t.name: {
                        "counts": t.counts[i].astype(int).tolist(),
                        "saliency": t.saliency[i].tolist(),
                        "norms": t.norms[i].tolist(),
                    }
                    for t in self.texts
                },
                "largest": self.largest[i].tolist(),
            }
            for i, layer in enumerate(self.layers)
        ]
        return {
            "method": method,
            "experts": self.mixture.n_experts,
            "used": self.mixture.n_used,
            "tokens": {t.name: t.n_tokens for t in self.texts},
            "layers": rows,
            "guarded": _texts(self.guarded()),
            "unmeasured": _texts(self.unmeasured()),
        }


def rank_file(
    path: Path,
    texts: Mapping[str, str],
    n_ctx: int,
    n_windows: int | None,
    n_threads: int | None = None,
    parse_special: bool = False,
    likeness: bool = False,
    progress: Progress | None = None,
) -> Ranking:
    """Run texts through the model and accumulate statistics of each expert.

    Memory does not grow with the texts. Made to be run by `runtime.worker.run`.

    Args:
        likeness: also measure the dissimilarity of each pair of experts.

    Raises:
        ArchitectureError: the model has no experts.
        EngineError: its graph does not show them, or a text is too short.
    """
    header = read_header(path)
    found = mixture(header)
    size = max(64, n_ctx)
    with Engine.open(path, n_ctx=size, n_batch=size, n_threads=n_threads) as engine:
        cut = {
            name: Windows.of_text(engine, text, n_ctx, n_windows, parse_special=parse_special)
            for name, text in texts.items()
        }
        total, done = sum(map(len, cut.values())), 0
        sums, largest, hooks = [], [], []
        layers: tuple[int, ...] = ()
        for name, windows in cut.items():
            hook = ExpertHook(found.n_experts, likeness=likeness)
            hooks.append(hook)
            engine.set_hook(hook)
            for tokens in windows.inputs:
                engine.reset()
                engine.decode(tokens, logits="all", copy=False)
                done += 1
                if progress is not None:
                    progress(done, total)
            hook.finish()
            layers = _seen(header, found, hook)
            stacked = [
                np.stack([getattr(hook.layers[n], part) for n in layers])
                for part in ("counts", "saliency", "norms", "largest")
            ]
            sums.append(TextSums(name, windows.n_tokens, *stacked[:3]))
            largest.append(stacked[3])
    unlike = None
    if likeness:
        unlike = np.stack([_unlikeness([hook.layers[n] for hook in hooks]) for n in layers])
    return Ranking(path, found, layers, tuple(sums), np.max(largest, axis=0), unlike)


def _unlikeness(sums: Sequence[ExpertSums]) -> F64:
    """1 - (a + b) / 2 for each pair, with cosines mapped to 0 ... 1 (REAM, arXiv 2604.04356).

    a is the cosine of the mean gated outputs, b the cosine of the router's scores over all tokens.
    """
    missing = EngineError(
        "the model's graph does not show the scores of its router", expected="ffn_moe_logits-N"
    )
    outputs, router = np.zeros(()), np.zeros(())
    for each in sums:
        if each.outputs is None or each.router is None:
            raise missing
        outputs, router = outputs + each.outputs, router + each.router
    unlike: F64 = 1 - (_alike(outputs @ outputs.T) + _alike(router)) / 2
    return unlike


def _alike(products: F64) -> F64:
    """Cosines from scalar products, mapped to 0 ... 1."""
    lengths = np.sqrt(np.maximum(products.diagonal(), 1e-30))
    alike: F64 = (1 + products / np.outer(lengths, lengths)) / 2
    return alike


def _seen(header: Header, found: Mixture, hook: ExpertHook) -> tuple[int, ...]:
    """The layers that ran; those behind the trunk (MTP) do not."""
    layers = tuple(n for n in found.layers if n in hook.layers)
    if not layers:
        raise PlanError(
            "the model's graph does not show what its experts do",
            file=header.path,
            expected="nodes ffn_moe_topk-N, ffn_moe_weights-N and ffn_moe_down-N",
            found="none",
        )
    return layers


def _shares(scores: F64) -> F64:
    found: F64 = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-30)
    return found


def _texts(experts: Mapping[int, Sequence[int]]) -> dict[str, str]:
    return {str(layer): format_layers(list(e)) for layer, e in experts.items()}
