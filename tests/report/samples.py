"""Result documents with the shapes that commands write, made from a seed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from ggsurgery.find.figures import figures_of
from ggsurgery.measure.controls import Control, Outcome, against, corrected, verdict
from ggsurgery.measure.results.facts import ModelFacts
from ggsurgery.measure.results.result_files import Results
from ggsurgery.measure.results.score import Score, mean_score
from ggsurgery.measure.suite.result import Part, SurgeryScore
from ggsurgery.present.figure import Figure

HOSTILE = '<script>alert("x")</script>|`'


def suite(seed: int, p: float, n: int = 30) -> SurgeryScore:
    rng = np.random.default_rng(seed)
    right = (rng.random(n) < p).astype(float).tolist()
    said = tuple(
        {
            "id": str(i),
            "asked": f"Question {i}?",
            "said": HOSTILE if i == 0 else "An answer.",
            "right": bool(right[i]),
        }
        for i in range(n)
    )
    ids = tuple(map(str, range(n)))
    return SurgeryScore(
        (
            Part("facts", 40, tuple(right), ids=ids, transcript=said),
            Part("perplexity", 15, (1.3, 1.1, 1.2 + (1 - p)), 3.0, 0.8, ids=("0", "1", "2")),
            Part("stop", 10, (), note="no chat template, so no end of a turn"),
        ),
        {"weights": "weights.toml"},
    )


def model(name: str, seed: int, p: float, size: int, layers: int) -> Results:
    rng = np.random.default_rng(seed)
    items = (rng.random(400) < p).astype(float)
    ids = tuple(map(str, range(400)))
    scores = (
        mean_score("acc_norm", items, {"task": "hellaswag", "chance": 0.25}, ids),
        mean_score("acc", items[:200] * 0.5, {"task": "mmlu", "chance": 0.25}, ids[:200]),
        Score("perplexity", 12.0 / p, 0.2, 4000, {}, tuple(rng.normal(2.5 / p, 0.1, 30))),
    )
    facts = ModelFacts(name, f"{name}.gguf", size << 20, layers, layers * 4_500_000, "Q8_0")
    return Results(facts, scores, suite(seed, p))


@cache
def three_models() -> list[Results]:
    base = model("base-8b", 1, 0.75, 138, 30)
    cut = model("cut-5-layers", 2, 0.55, 118, 25)
    assert base.suite is not None and cut.suite is not None
    outcomes = corrected(
        [
            Outcome(
                Control("Q6_K, uncut", "same bytes"),
                110 << 20,
                suite(1, 0.74),
                against(cut.suite, suite(1, 0.74)),
            ),
            Outcome(
                Control("last layers 24-28", "last layers"),
                118 << 20,
                suite(5, 0.1),
                against(cut.suite, suite(5, 0.1)),
            ),
            Outcome(Control("random 3", "random layers"), refused="layers lose their phase"),
        ]
    )
    cut = Results(
        cut.model,
        cut.scores,
        cut.suite,
        baseline="base-8b.gguf",
        controls=tuple(o.to_json() for o in outcomes),
        verdict=verdict(cut.suite, outcomes),
    )
    return [base, cut, model("cut-15-layers", 3, 0.27, 78, 15)]


def scan(n: int = 30) -> dict[str, Any]:
    """What `ggsurgery scan --json` prints, shortened to the fields that a report needs.

    Without the differences to the uncut model, as versions before 0.2 may have written it.
    """
    rng = np.random.default_rng(7)
    rows: list[dict[str, Any]] = []
    for layer in range(n):
        value = 0.42 - 0.15 * (layer in (0, 1, 29)) - 0.02 * float(rng.random())
        rows.append({"position": layer, "value": value, "stderr": 0.025, "n": 400, "error": None})
    rows[12] |= {"value": None, "stderr": None, "error": "llama.cpp crashed (SIGSEGV)"}
    base = {"value": 0.43, "stderr": 0.025, "n": 400}
    return {"operation": "delete", "metric": "choices:mmlu", "base": base, "rows": rows}


def perplexity_scan(n: int = 30) -> dict[str, Any]:
    """A scan of perplexity with its paired differences: layer 0 is ruinous."""
    rng = np.random.default_rng(8)
    rows: list[dict[str, Any]] = []
    for layer in range(n):
        change = 4.5 if layer == 0 else float(0.02 + 0.1 * rng.random())
        value = 20.0 * math.exp(change)
        rows.append(
            {
                "position": layer,
                "value": value,
                "stderr": 0.2 * value,
                "n": 8,
                "difference": change,
                "difference_stderr": 0.01,
                "error": None,
            }
        )
    base = {"value": 20.0, "stderr": 4.0, "n": 8, "chance": None}
    return {"operation": "delete", "metric": "perplexity", "base": base, "rows": rows}


def influence() -> dict[str, Any]:
    """What `ggsurgery influence --span 3 --json` prints."""
    shares = [0.8, 0.1, 0.05, 0.03, 0.02, 0.04]
    layers = [
        {
            "layer": i,
            "influence": v,
            "stderr": v / 20,
            "angular": v / 3,
            "norm": 60.0 + i,
            "first_norm": 50.0,
        }
        for i, v in enumerate(shares)
    ]
    spans = [
        {"first": i, "last": i + 2, "angular": a, "cuts_sink": i <= 2}
        for i, a in ((3, 0.11), (2, 0.13), (1, 0.2), (0, 0.4))
    ]
    return {
        "file": "base-8b.gguf",
        "windows": 8,
        "tokens": 4096,
        "angular_at": "last",
        "sink": 2,
        "layers": layers,
        "spans": spans,
    }


def search(second: str | None = "size") -> dict[str, Any]:
    """What `ggsurgery search --json` prints, shortened."""
    values = [(24.0, 120), (22.0, 130), (21.0, 140), (25.0, 139)]
    rows: list[dict[str, Any]] = [
        {
            "trial": i,
            "operation": f"delete {i}",
            "stderr": 0.4,
            "error": None,
            "values": [v, size << 20] if second else [v],
        }
        for i, (v, size) in enumerate(values)
    ]
    rows.append(
        {"trial": 4, "operation": "swap 1,2", "values": [], "stderr": None, "error": "refused"}
    )
    return {
        "study": "s",
        "objective": "perplexity",
        "second": second,
        "tried": 5,
        "rows": rows,
        "pareto": [0, 1, 2] if second else [],
    }


def figures() -> list[Figure]:
    """Everything that a report draws beside the models."""
    documents = (scan(), perplexity_scan(), influence(), search(), search(None))
    return [figure for document in documents for figure in figures_of(document) or ()]
