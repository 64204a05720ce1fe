"""What cannot be healed, found before the fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import PlanError
from ..ggufio.types import Header
from ..measure.sink import sink_of
from ..measure.variants import Candidates
from ..plan.heal import ATTENTION, PROJECTION, Place
from ..plan.text import format_layers
from ..plan.types import Plan
from ..surgery.imatrix_lineage import in_words, operations
from . import nodes
from .settings import Settings

#: Steps that leave layers out.
CUTTING = frozenset({"delete", "keep", "keep_channels", "merge", "bridge", "heal"})
#: Tokens for each feature of a fit, at least. Of n tokens and F features a fit leaves about
#: n / (n − F) times the residual of the best one on other tokens. SmolLM2 without layers 12-16
#: (F = 1536, bare: residual 0.75, perplexity 64.5): 2,048 tokens make it worse (0.85 held out,
#: 81.3), 4,096 better (0.42, 48.5), 32,768 leave 0.27 and 37.9.
TOKENS_PER_FEATURE = 2


def check_uncut(header: Header) -> None:
    """Refuse a file that lacks layers of the model that it was made from.

    Raises:
        PlanError: layers were removed from the file before; names them.
    """
    done = operations(header)
    if any(step.operation in CUTTING for recipe, _ in done for step in recipe.steps):
        raise PlanError(
            "the file was cut before, and healing fits towards the layers that a file has",
            file=header.path,
            expected="the uncut model, and all layers to cut from it",
            found=f"a file after: {in_words(done)}",
            hint="Give the uncut model and this file: ggsurgery heal UNCUT CUT OUT; or heal a "
            "further cut of this file with `cut_again`.",
        )


def check_layers(
    session: Candidates,
    plan: Plan,
    runs: Sequence[Sequence[Place]],
    settings: Settings,
    n_tokens: int,
    few_tokens: bool,
) -> None:
    """Refuse layers that cannot be corrected, and a fit that would learn its tokens by heart."""
    if settings.method == "scale":
        return
    tensors = (PROJECTION, ATTENTION) if settings.attention else (PROJECTION,)
    for run in runs:
        block = plan.blocks[run[0].position]
        for tensor in tensors:
            nodes.check_layer(session, block, tensor)
        width = nodes.n_features(session, block, PROJECTION)
        if settings.method == "tw":
            width = int(session.source.header.get("{arch}.embedding_length") or width)
        if not few_tokens:
            check_tokens(session, settings, width, n_tokens, ", `method` tw or scale")


def check_tokens(
    session: Candidates, settings: Settings, n_features: int, n_tokens: int, others: str = ""
) -> None:
    """Refuse a fit that would learn its tokens by heart.

    Args:
        others: further ways out, for the message.
    """
    least = math.ceil(TOKENS_PER_FEATURE * n_features / settings.ctx) * settings.ctx
    if n_tokens < least:
        raise PlanError(
            f"too few tokens to fit {n_features:,} features: the correction would fit these "
            "tokens and spoil others",
            file=session.path,
            expected=f"{least:,} or more",
            found=f"{n_tokens:,}",
            hint=f"Give a longer text and `tokens` {least} or more{others}, or `few_tokens`.",
        )


def check_sink(session: Candidates, runs: Sequence[Sequence[Place]]) -> None:
    """Refuse a cut of the layer that makes the attention sink.

    Raises:
        PlanError: names cuts of the same length beside it.
    """
    removed = {layer for run in runs for layer in run[0].removed}
    if not removed:
        return
    with session.open(session.identity) as candidate:
        sink = sink_of(candidate.engine, session.windows.inputs[0])
    if sink is None or sink not in removed:
        return
    seam = next(run[0] for run in runs if sink in run[0].removed)
    n, count = len(session.identity.blocks), len(seam.removed)
    spans = (range(sink - count, sink), range(sink + 1, sink + 1 + count))
    free = [
        s for s in spans if s.start > 0 and s.stop <= n and not removed & set(s) - set(seam.removed)
    ]
    raise PlanError(
        f"layer {sink} makes the attention sink, and no layer in front of it can take that over",
        file=session.path,
        expected=f"a cut that leaves layer {sink}",
        found=f"{format_layers(seam.removed)} removed",
        hint=f"Cut {' or '.join(format_layers(s) for s in free) or 'other layers'} instead; "
        "`any_cut` heals this cut as it is.",
    )
