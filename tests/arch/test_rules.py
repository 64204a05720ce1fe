"""What the rules write into a header, and what they refuse, without any weights."""

from __future__ import annotations

from typing import Any

import pytest

from ggsurgery.arch import rules_for
from ggsurgery.errors import ArchitectureError, FormatError, PlanError
from ggsurgery.ggufio.types import Header
from ggsurgery.plan.types import BlockRef, Plan, Take

from ._headers import ATTENTION, DENSE, MOE, RECURRENT, blend, header, plan


def rewrite(source: Header, wanted: Plan) -> dict[str, Any]:
    """The changed keys without the architecture, in Python's types."""
    change = rules_for(source).rewrite([source], wanted)
    return {k.removeprefix(f"{source.architecture}."): v.value for k, v in change.set.items()}


def test_identity_changes_nothing() -> None:
    source = header("gemma3", 6, attention__sliding_window=512)
    assert rewrite(source, plan(*range(6))) == {}


def test_arrays_follow_their_layers_and_keep_their_type() -> None:
    source = header(
        "deci", 4, feed_forward_length=[1, 2, 3, 4], attention__head_count_kv=[4, 3, 2, 1]
    )
    change = rules_for(source).rewrite([source], plan(3, 0, 0))
    assert change.set["deci.feed_forward_length"].value == [4, 1, 1]
    assert change.set["deci.attention.head_count_kv"].value == [1, 4, 4]
    old = source.metadata["deci.feed_forward_length"]
    assert change.set["deci.feed_forward_length"].item_type is old.item_type


def test_implied_pattern_is_written_out_when_a_layer_shifts() -> None:
    source = header("gemma3", 8, attention__sliding_window=512)
    found = rewrite(source, plan(0, 1, 3, 4, 5, 6, 7))
    assert found == {
        "block_count": 7,
        "attention.sliding_window_pattern": [True, True, True, True, False, True, True],
    }


def test_implied_pattern_stays_when_no_layer_shifts() -> None:
    source = header("gemma3", 12, attention__sliding_window=512)
    assert rewrite(source, plan(*range(6))) == {"block_count": 6}
    assert rewrite(source, plan(*range(6, 12))) == {"block_count": 6}


def test_without_windowed_layers_the_window_goes() -> None:
    source = header("gemma3", 12, attention__sliding_window=512)
    assert rewrite(source, plan(5, 11)) == {"block_count": 2, "attention.sliding_window": 0}
    always = header("gemma2", 4, attention__sliding_window=512)
    with pytest.raises(ArchitectureError, match="without any windowed layer"):
        rewrite(always, plan(1, 3))


def test_leading_dense_layers_are_counted_again() -> None:
    stack = [ATTENTION + DENSE] * 2 + [ATTENTION + MOE] * 3
    source = header(
        "deepseek2",
        stack,
        leading_dense_block_count=2,
        expert_count=4,
        attention__q_lora_rank=8,
        expert_gating_func=1,
    )
    assert rewrite(source, plan(1, 2, 3)) == {"block_count": 3, "leading_dense_block_count": 1}
    assert rewrite(source, plan(2, 3)) == {"block_count": 2, "leading_dense_block_count": 0}
    with pytest.raises(ArchitectureError, match="Dense layers must stay in front"):
        rewrite(source, plan(0, 2, 1))


def test_steps_without_an_array_name_layers_and_the_nearest_lists() -> None:
    source = header("smollm3", 36)
    with pytest.raises(ArchitectureError) as caught:
        rewrite(source, plan(*(i for i in range(36) if i != 10)))
    text = str(caught.value)
    assert "layers 11-12,15-16" in text and "smollm3" in text
    hint = text.split("Nearest lists that keep every kind: ")[1]
    for part in hint.split(" or "):
        runs = part.removeprefix("keep --layers ").split(",")
        layers = [layer for run in runs for layer in _run(run)]
        rewrite(source, plan(*layers))  # a proposal must be allowed


def _run(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def test_tail_stays_behind_and_can_be_dropped() -> None:
    stack = [ATTENTION + MOE] * 4 + [(*ATTENTION, *MOE, "nextn.eh_proj.weight")]
    source = header("glm4moe", stack, nextn_predict_layers=1, expert_count=4)
    assert [k.mtp for k in rules_for(source).kinds(source)] == [False] * 4 + [True]
    assert rewrite(source, plan(0, 1, 3, tail=(4,))) == {"block_count": 4}
    assert rewrite(source, plan(0, 1, 3)) == {"block_count": 3, "nextn_predict_layers": 0}
    with pytest.raises(ArchitectureError, match="`drop_mtp`"):
        rewrite(source, plan(0, 4, 1))


def test_recurrent_layers_keep_their_kind_and_the_first_layer_its_heads() -> None:
    stack = [RECURRENT, ATTENTION, RECURRENT]
    source = header("jamba", stack, attention__head_count=4, attention__head_count_kv=[0, 2, 0])
    assert rewrite(source, plan(1, 0))["attention.head_count_kv"] == [2, 0]
    odd = header(
        "granitehybrid",
        stack,
        attention__head_count=[4, 4, 0],
        embedding_length=64,
        attention__head_count_kv=[0, 2, 0],
    )
    with pytest.raises(ArchitectureError, match="derives the head size"):
        rewrite(odd, plan(2, 1))


def test_head_size_is_stated_when_the_first_layer_has_other_heads() -> None:
    source = header("openelm", 3, attention__head_count=[4, 8, 8], embedding_length=64)
    found = rewrite(source, plan(1, 2))
    assert found["attention.key_length"] == found["attention.value_length"] == 16


def test_image_inputs_keep_their_layers() -> None:
    source = header("qwen3vl", 6, n_deepstack_layers=2)
    assert rewrite(source, plan(0, 1, 3, 4)) == {"block_count": 4, "n_deepstack_layers": 2}
    with pytest.raises(ArchitectureError, match="image input"):
        rewrite(source, plan(1, 2, 3))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"mystery": [1, 2, 3, 4]}, "mystery has one entry per layer"),
        ({"attention__sliding_window": 8}, "layers differ by position"),
        ({"nextn_predict_layers": 1}, "layers differ by position"),
    ],
)
def test_unknown_architectures_stop_unless_allowed(keys: dict[str, Any], why: str) -> None:
    source = header("brandnew", 4, **keys)
    wanted = plan(0, 1, 2) if "nextn_predict_layers" not in keys else plan(0, 1, tail=(3,))
    with pytest.raises(ArchitectureError, match=why):
        rewrite(source, wanted)
    change = rules_for(source, allow_unknown=True).rewrite([source], wanted)
    assert any(why in text for text in change.warnings)


def test_unknown_architectures_allow_leaving_out_alike_layers_only() -> None:
    source = header("brandnew", 4)
    assert rewrite(source, plan(0, 2, 3)) == {"block_count": 3}
    with pytest.raises(ArchitectureError, match="only removing layers"):
        rewrite(source, plan(1, 0))
    unlike = header("brandnew", [ATTENTION + DENSE, ATTENTION + MOE, ATTENTION + DENSE])
    with pytest.raises(ArchitectureError, match=r"layers 0 and 1 differ in ffn_"):
        rewrite(unlike, plan(0, 1))


def test_unknown_array_follows_when_allowed() -> None:
    source = header("brandnew", 3, mystery=[7, 8, 9])
    change = rules_for(source, allow_unknown=True).rewrite([source], plan(2, 0))
    assert change.set["brandnew.mystery"].value == [9, 7]


def test_stale_arrays_are_refused_with_the_way_out() -> None:
    source = header("lfm2", 5, attention__head_count_kv=[2] * 6)
    with pytest.raises(ArchitectureError, match="ggsurgery repair"):
        rewrite(source, plan(0, 1))


def test_two_sources_promote_scalars_where_the_loader_reads_arrays() -> None:
    a = header(
        "gemma4",
        3,
        attention__head_count_kv=2,
        attention__sliding_window=8,
        attention__sliding_window_pattern=[True, True, False],
    )
    b = header(
        "gemma4",
        3,
        attention__head_count_kv=4,
        attention__sliding_window=8,
        attention__sliding_window_pattern=[True, True, False],
        path="other.gguf",
    )
    both = Plan((Take(BlockRef(0, 0)), Take(BlockRef(1, 1)), Take(BlockRef(0, 2))), n_sources=2)
    change = rules_for(a).rewrite([a, b], both)
    assert change.set["gemma4.attention.head_count_kv"].value == [2, 4, 2]
    c, d = (header("qwen3", 3, attention__head_count_kv=n) for n in (2, 4))
    with pytest.raises(ArchitectureError, match="once for the whole model"):
        rules_for(c).rewrite([c, d], both)


def test_two_sources_must_agree_in_what_holds_for_all_layers() -> None:
    a = header("qwen3", 3, rope__freq_base=10000.0)
    b = header("qwen3", 3, rope__freq_base=5000000.0, path="other.gguf")
    both = Plan((Take(BlockRef(0, 0)), Take(BlockRef(1, 1))), n_sources=2)
    with pytest.raises(ArchitectureError, match=r"other.gguf: qwen3.rope.freq_base"):
        rules_for(a).rewrite([a, b], both)
    c = header("llama", 3, path="other.gguf")
    with pytest.raises(ArchitectureError, match="different architectures"):
        rules_for(a).rewrite([a, c], both)


def test_blends_of_unlike_layers_are_refused() -> None:
    source = header("gemma3", 6, attention__sliding_window=512)
    rules_for(source).rewrite([source], blend(1, 2))
    with pytest.raises(ArchitectureError, match="layers 4 and 5 are of different kinds"):
        rules_for(source).rewrite([source], blend(4, 5))
    rules_for(source).rewrite([source], blend(4, 5), force_kinds=True)


def test_attention_scale_is_folded_or_warned_about() -> None:
    names = (*ATTENTION, *DENSE, "attn_q_norm.weight")
    source = header(
        "gemma3",
        [names] * 62,
        embedding_length=64,
        attention__head_count=2,
        attention__key_length=8,
    )
    change = rules_for(source).rewrite([source], plan(*range(61)))
    assert len(change.tensors) == 61 and "scaled by 0.5" in change.warnings[0]
    quantized = header(
        "gemma3",
        [(*ATTENTION, *DENSE)] * 62,
        embedding_length=64,
        attention__head_count=2,
        attention__key_length=8,
    )
    change = rules_for(quantized).rewrite([quantized], plan(*range(61)))
    assert not change.tensors and "start from an F16 file" in change.warnings[0]


def test_messages_name_what_is_wrong_with_a_file() -> None:
    with pytest.raises(PlanError, match=r"model.gguf: layer 9 does not exist"):
        rewrite(header("llama", 4), plan(0, 9))
    with pytest.raises(FormatError, match="impossible number of MTP layers"):
        rewrite(header("llama", 4, nextn_predict_layers=7), plan(0, 1))
    nameless = header("", 2)
    with pytest.raises(FormatError, match=r"general.architecture"):
        rules_for(nameless)


@pytest.mark.parametrize("arch", ["hrm_text", "t5", "nanbeige"])
def test_looped_architectures_are_refused_by_name(arch: str) -> None:
    with pytest.raises(ArchitectureError, match=f"layers of {arch} cannot be moved"):
        rewrite(header(arch, 4), plan(0, 1, 2))
