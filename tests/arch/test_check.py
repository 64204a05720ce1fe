"""`verify` on wrong files, one kind of wrong a test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggsurgery.arch import rules_for
from ggsurgery.arch.check import check
from ggsurgery.errors import FormatError, GGSurgeryError
from ggsurgery.ggufio.types import Header

from ._headers import ATTENTION, DENSE, MOE, RECURRENT, header

NEXTN = (*ATTENTION, *DENSE, "nextn.eh_proj.weight")


def problems(found: Header) -> list[tuple[str, str, str]]:
    return [(f.severity, f.where, f.problem) for f in check(rules_for(found), found)]


def test_right_files_have_none() -> None:
    assert problems(header("llama", 4)) == []
    assert problems(header("gemma3", 8, attention__sliding_window=512)) == []


def test_stale_array() -> None:
    found = header("lfm2", 5, attention__head_count_kv=[2] * 6)
    ((severity, where, problem),) = problems(found)
    assert (severity, where) == ("error", "lfm2.attention.head_count_kv")
    assert "6 entries for 5 layers" in problem
    assert "repair" in check(rules_for(found), found)[0].hint


def test_shifted_recurrent_pattern_shows_by_the_tensors() -> None:
    right = [RECURRENT] * 3 + [ATTENTION] + [RECURRENT] * 3 + [ATTENTION]
    assert problems(header("qwen35", right)) == []
    found = problems(header("qwen35", right[1:]))
    assert [where for _, where, _ in found] == ["layers 2-3,6"]
    assert "layer 2 runs as recurrent" in found[0][2]
    assert "has the tensors of an attention layer" in found[0][2]


def test_stale_count_of_dense_layers() -> None:
    stack = [ATTENTION + DENSE] + [ATTENTION + MOE] * 3
    found = header("glm4moe", stack, leading_dense_block_count=2, expert_count=4)
    ((severity, where, problem),) = problems(found)
    assert (severity, where) == ("error", "layers 1")
    assert "runs as full, dense, but has moe tensors" in problem


def test_missing_tail() -> None:
    lost = header("qwen35", [ATTENTION] * 4, nextn_predict_layers=1, full_attention_interval=1)
    ((severity, where, problem),) = problems(lost)
    assert (severity, where) == ("error", "blk.3") and "no nextn.* tensors" in problem
    uncounted = header("glm4moe", [ATTENTION + DENSE] * 3 + [NEXTN])
    assert "does not count it" in problems(uncounted)[0][2]


def test_window_without_a_windowed_layer() -> None:
    found = header(
        "gemma3", 2, attention__sliding_window=8, attention__sliding_window_pattern=[False, False]
    )
    ((severity, _, problem),) = problems(found)
    assert severity == "error" and "llama.cpp aborts" in problem


def test_sharing_layers_without_their_source() -> None:
    pattern = [True, False, True, True]
    found = header(
        "gemma4",
        4,
        attention__sliding_window=8,
        attention__shared_kv_layers=1,
        attention__sliding_window_pattern=pattern,
    )
    ((severity, where, _),) = problems(found)
    assert (severity, where) == ("error", "blk.1")


def test_slabs_of_another_layer_count() -> None:
    shell = {"per_layer_token_embd.weight": (5 * 4, 8), "per_layer_proj_norm.weight": (4,)}
    found = header(
        "gemma4",
        4,
        shell,
        attention__sliding_window=8,
        attention__sliding_window_pattern=[True, True, False, False],
    )
    ((_, where, problem),) = problems(found)
    assert where == "per_layer_token_embd.weight" and "expected 16" in problem


def test_recipe_that_moved_layers_and_a_pattern_that_stayed() -> None:
    recipe = json.dumps({"operations": [{"delete": {"layer": "2"}}]})
    wrong = header("gemma3", 11, attention__sliding_window=8, ggsurgery__recipe=recipe)
    found = problems(wrong)
    assert [where for _, where, _ in found] == ["layers 4-5,10"]
    assert "the recipe took layer 5, which was full" in found[0][2]
    pattern = [i not in (4, 10) for i in range(11)]
    right = header(
        "gemma3",
        11,
        attention__sliding_window=8,
        ggsurgery__recipe=recipe,
        attention__sliding_window_pattern=pattern,
    )
    assert problems(right) == []


def test_a_period_is_no_statement_of_the_layers_that_were_moved() -> None:
    recipe = json.dumps({"operations": [{"delete": {"layer": "2"}}]})
    keys = {"attention__sliding_window": 8, "attention__sliding_window_pattern": 3}
    ((_, where, problem),) = problems(header("gemma3", 8, **keys, ggsurgery__recipe=recipe))
    assert where == "layers 2,4-5,7"
    assert "layer 2 runs as full, dense; the recipe took layer 3, which was window 8" in problem


@pytest.mark.parametrize("arch", ["granitehybrid", "jamba", "lfm2moe", "kimi-linear", "nemotron_h"])
@pytest.mark.parametrize("operation", [{"delete": {"layer": "1"}}, {"swap": {"layers": "0,3"}}])
def test_arrays_that_moved_along_with_a_recipe(arch: str, operation: dict[str, Any]) -> None:
    """Which layers are recurrent stands in the heads' array, which the recipe has moved."""
    stack = [RECURRENT, ATTENTION, RECURRENT, RECURRENT]
    heads = [0, 2, 0, 0]
    right = header(
        arch,
        stack,
        attention__head_count=4,
        attention__head_count_kv=heads,
        feed_forward_length=[0] * 4,
        ggsurgery__recipe=json.dumps({"operations": [operation]}),
    )
    assert [p for p in problems(right) if "the recipe took" in p[2]] == []


@pytest.mark.parametrize(
    "keys",
    [
        {"attention__sliding_window": "wide"},
        {"attention__sliding_window": [1, 2, 3]},
        {"attention__sliding_window": 8, "attention__sliding_window_pattern": "all"},
        {"attention__sliding_window": 8.5},
        {"nextn_predict_layers": [1]},
    ],
)
def test_values_of_a_wrong_type_are_named(keys: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"model.gguf: gemma3\."):
        problems(header("gemma3", 4, **keys))


def test_no_value_can_cause_a_traceback() -> None:
    odd: list[Any] = [0, -1, 2**31, 1.5, "x", True, [1], [0.5] * 4, ["a"] * 4, [True] * 4]
    names = (
        "attention__head_count_kv",
        "leading_dense_block_count",
        "expert_count",
        "attention__shared_kv_layers",
        "full_attention_interval",
        "n_deepstack_layers",
        "attention__recurrent_layers",
        "interleave_moe_layer_step",
        "feed_forward_length",
    )
    archs = ("gemma4", "llama4", "qwen35", "lfm2moe", "nemotron_h", "qwen3vl", "ernie4_5-moe")
    for arch in archs:
        for name in names:
            for found in odd:
                if isinstance(found, int) and found < 0:
                    continue  # a u32 has no sign
                try:
                    problems(header(arch, 4, **{name: found}))
                except GGSurgeryError as error:
                    assert "model.gguf" in str(error)
