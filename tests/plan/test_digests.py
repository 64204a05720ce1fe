"""Digests of plans stay: they are in the headers of the files made, and `replay` compares bytes."""

from __future__ import annotations

import pytest

from ggsurgery.plan.recipe import Recipe
from ggsurgery.plan.types import Plan

FIT = {"arrays": {"heal.blk.1.ffn_down.weight": "ab" * 32}}
RECIPES: dict[str, list[object]] = {
    "damped and scaled": [
        {"duplicate": {"layer": "3", "scale": 0.5}},
        {"bridge": {"layer": 1, "at": 4, "scale_tensors": ["attn_q,ffn_down.weight=0.7"]}},
    ],
    "healed": [{"heal": {"layer": "2", "fit": FIT}}],
    "pruned": [
        {"prune": {"sparsity": 0.3}},
        {"prune": {"pattern": "2:4", "only": "ffn", "largest": True}},
        {
            "prune": {
                "sparsity": 0.5,
                "scope": "row",
                "score": "wanda",
                "imatrix": "i.gguf",
                "imatrix_of": "this",
            }
        },
        {"drop_tensor": "rope_freqs.weight"},
        {"set": {"key": "general.tags", "value": ["a", "b"], "type": "array[string]"}},
        {"unset": "general.url"},
    ],
    "blended": [{"blend": {"models": 3, "method": "dare", "density": 0.5, "seed": 7}}],
    "merged": [{"merge": {"layers": "1-3", "method": "damped", "factor": 0.5, "parts": "ffn"}}],
}


def digest(name: str) -> str:
    return Recipe.from_json(RECIPES[name]).apply(Plan.identity(6)).digest


@pytest.mark.parametrize(
    ("name", "recorded"),
    {
        "damped and scaled": "b13e18cf67c76a27ba599b970a11257ee8e98224f9244efa53abc03d678dc80b",
        "healed": "8733a04631b8e41bfe03859172b7ad965dab3c66247f8ddd36fffb2d81beca61",
        "pruned": "c781976a19d4b24faf4607d44213f7070268dcaee759ffa639e659498f87e5a1",
        "blended": "0a513bc4ebabe639bbc5a5fb3b83d53b2101d29acfd0ebfd7672e93cfe4e3ab8",
        "merged": "970a44c4cd95ac0a01ad043423ce4e1bf5a43c4a0bcd3d07d5875216a2101fbf",
    }.items(),
)
def test_digests_of_earlier_versions(name: str, recorded: str) -> None:
    assert digest(name) == recorded


def test_an_edit_of_the_header_is_no_edit_of_the_tensors() -> None:
    plan = Recipe.from_json([{"set": {"key": "general.license", "value": "mit"}}]).apply(
        Plan.identity(2)
    )
    assert plan.metadata and not plan.edits and not plan.computes
