"""The second objective of a search: what a candidate saves."""

from __future__ import annotations

import math
import time

from ...measure.variants.measure import Measurer
from ...measure.variants.scratch import candidate_layout
from ...measure.variants.session import Variant
from ...plan.types import Plan
from .study import Second

#: Tokens of the prompt that is timed, at most.
PROMPT = 256


def second(measurer: Measurer, plan: Plan, kind: Second) -> float:
    """Bytes of a plan's file, or tokens a second of a prompt, the better of two runs."""
    session = measurer.session
    if kind == "size":
        layout = candidate_layout(plan, (session.source,), session.rules, vocabulary=True)
        return float(layout.n_bytes)
    n = min(PROMPT, measurer.setup.n_ctx)
    with Variant(session, plan).engine(max(64, n)) as engine:
        tokens = [1] * n
        engine.decode(tokens)
        best = math.inf
        for _ in range(2):
            engine.reset()
            start = time.monotonic()
            engine.decode(tokens)
            best = min(best, time.monotonic() - start)
    return n / best
