"""What each method makes of each tensor, checked by values against the formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggsurgery.errors import ArchitectureError, PlanError
from ggsurgery.ggufio.reader import Source
from ggsurgery.plan.edits import Damp, params
from ggsurgery.plan.types import Blend, Block, BlockRef, Edited, Take
from ggsurgery.tensors import evaluate
from ggsurgery.tensors.expr import Expr, Read
from ggsurgery.tensors.kernels import F32
from ggsurgery.tensors.parts import damps
from ggsurgery.tensors.to_expr import lower
from tests.tensors._files import values_of, weights, write_file

NAMES = ("attn_q.weight", "attn_norm.weight", "ffn_norm.weight", "ffn_down.weight", "attn_q.bias")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    tensors = {}
    for layer in range(4):
        for k, name in enumerate(NAMES):
            shape = (64,) if "norm" in name or "bias" in name else (8, 64)
            tensors[f"blk.{layer}.{name}"] = (weights(shape, 10 * layer + k), F32)
    tensors["blk.3.attn_q.weight"] = (weights((16, 64), 3), F32)
    return write_file(tmp_path_factory.mktemp("lower") / "m.gguf", tensors, 4)


def take(layer: int) -> Take:
    return Take(BlockRef(0, layer))


def expression(source: Source, block: Block, suffix: str) -> Expr:
    def read(ref: BlockRef, name: str) -> Expr | None:
        tensor = source.header.layer_tensors(ref.index).get(name)
        return None if tensor is None else Read(ref.source, tensor)

    expr = lower(block, suffix, read)
    assert expr is not None
    return expr


def values(source: Source, block: Block, suffix: str) -> np.ndarray:
    blocks = evaluate.evaluate(expression(source, block, suffix), F32, [source], threads=1)
    return np.concatenate([np.frombuffer(b, np.float32) for b in blocks])


def parents(source: Source, suffix: str, *layers: int) -> list[np.ndarray]:
    return [values_of(source, f"blk.{n}.{suffix}").ravel() for n in layers]


@pytest.mark.parametrize("suffix", NAMES)
class TestMerges:
    def test_rdsc_is_equation_1(self, source: Source, suffix: str) -> None:
        base, *others = parents(source, suffix, 0, 1, 2)
        exact = base + sum(o - base for o in others)
        found = values(source, Blend((take(0), take(1), take(2)), "rdsc"), suffix)
        np.testing.assert_allclose(found, exact, atol=2e-8)

    def test_rdsc_of_two_is_the_second(self, source: Source, suffix: str) -> None:
        expr = expression(source, Blend((take(0), take(1)), "rdsc"), suffix)
        assert expr == expression(source, take(1), suffix)

    def test_damped(self, source: Source, suffix: str) -> None:
        base, *others = parents(source, suffix, 0, 1, 2)
        exact = base + 0.3 * sum(o - base for o in others)
        block = Blend((take(0), take(1), take(2)), "damped", params(factor=0.3))
        np.testing.assert_allclose(values(source, block, suffix), exact, atol=2e-8)
        none = Blend((take(0), take(1), take(2)), "damped", params(factor=0.0))
        assert expression(source, none, suffix) == expression(source, take(0), suffix)

    def test_mean(self, source: Source, suffix: str) -> None:
        exact = sum(parents(source, suffix, 0, 1, 2)) / 3
        found = values(source, Blend((take(0), take(1), take(2)), "mean"), suffix)
        np.testing.assert_allclose(found, exact, atol=2e-8)

    def test_reference_replays_the_published_loop(self, source: Source, suffix: str) -> None:
        """Its loop updates the base and then subtracts the updated base."""
        base, *others = parents(source, suffix, 0, 1, 2)
        if suffix in ("attn_q.weight", "ffn_down.weight"):
            for other in others:
                base = base + (other - base)
        found = values(source, Blend((take(0), take(1), take(2)), "reference"), suffix)
        np.testing.assert_allclose(found, base, atol=1e-9)


@pytest.mark.parametrize(("weight", "parent"), [(0.0, 0), (1.0, 1)])
@pytest.mark.parametrize("method", ["lerp", "slerp"])
def test_weight_0_or_1_gives_a_parent(
    source: Source, method: str, weight: float, parent: int
) -> None:
    block = Blend((take(0), take(1)), method, params(weight=weight))
    for suffix in NAMES:
        assert expression(source, block, suffix) == expression(source, take(parent), suffix)


@settings(max_examples=25, deadline=None)
@given(weight=st.floats(0, 1, width=16), method=st.sampled_from(["lerp", "slerp"]))
def test_interpolation_is_symmetric(
    tmp_path_factory: pytest.TempPathFactory, weight: float, method: str
) -> None:
    path = tmp_path_factory.mktemp("symmetric") / "m.gguf"
    with write_file(
        path, {f"blk.{n}.attn_q.weight": (weights((8, 64), n), F32) for n in range(2)}, 2
    ) as source:
        one = Blend((take(0), take(1)), method, params(weight=weight))
        other = Blend((take(1), take(0)), method, params(weight=1 - weight))
        np.testing.assert_array_equal(
            values(source, one, "attn_q.weight"), values(source, other, "attn_q.weight")
        )


@pytest.mark.parametrize(("part", "merged"), [("attn", NAMES[:2] + NAMES[4:]), ("ffn", NAMES[2:4])])
def test_parts(source: Source, part: str, merged: tuple[str, ...]) -> None:
    block = Blend((take(0), take(1)), "mean", params(parts=part))
    for suffix in NAMES:
        kept = expression(source, block, suffix) == expression(source, take(0), suffix)
        assert kept == (suffix not in merged)


def test_damping_scales_only_what_writes_into_the_stream(source: Source) -> None:
    block = Edited(take(0), (Damp(0.5),))
    for suffix in NAMES:
        factor = 0.5 if suffix == "ffn_down.weight" else 1.0
        (plain,) = parents(source, suffix, 0)
        np.testing.assert_array_equal(
            values(source, block, suffix), (factor * plain).astype(np.float32)
        )


def test_damping_with_norms_behind_the_projections(tmp_path: Path) -> None:
    names = (
        "attn_output.weight",
        "ffn_down.weight",
        "post_attention_norm.weight",
        "post_ffw_norm.weight",
    )
    tensors = {f"blk.0.{n}": (weights((64,) if "norm" in n else (8, 64), 1), F32) for n in names}
    with write_file(tmp_path / "m.gguf", tensors) as source:
        block = Edited(take(0), (Damp(0.5),))
        changed = {
            n for n in names if expression(source, block, n) != expression(source, take(0), n)
        }
    assert changed == set(names[2:])


@pytest.mark.parametrize(
    ("layer", "damped"),
    [
        # grok: norms behind both projections undo what scales the projections
        (
            "attn_norm attn_output attn_output_norm ffn_norm ffn_down_exps layer_output_norm",
            "attn_output_norm layer_output_norm",
        ),
        (
            "attn_norm attn_output attn_output_norm ffn_norm ffn_down_exps post_ffw_norm",
            "attn_output_norm post_ffw_norm",
        ),
        # dbrx: the same name opens the feed-forward half
        ("attn_norm attn_output attn_output_norm ffn_down_exps", "attn_output ffn_down_exps"),
        # gemma3n: a third branch from the per-layer embeddings
        (
            "attn_output post_attention_norm ffn_down post_ffw_norm post_norm",
            "post_attention_norm post_ffw_norm post_norm",
        ),
        ("attn_output ffn_down layer_output_scale", "attn_output ffn_down layer_output_scale"),
    ],
)
def test_what_damps_a_layer(layer: str, damped: str) -> None:
    names = {f"{n}.weight" for n in layer.split()}
    found = {n for n in names if damps(n, names.__contains__)}
    assert found == {f"{n}.weight" for n in damped.split()}


def test_a_layer_that_scales_what_it_got_cannot_be_damped(tmp_path: Path) -> None:
    names = ("ffn_down.weight", "post_ffw_norm.weight", "layer_output_scale.weight")
    tensors = {f"blk.0.{n}": (weights((64,), 1), F32) for n in names}
    with write_file(tmp_path / "m.gguf", tensors) as source:
        block = Edited(take(0), (Damp(0.5),))
        with pytest.raises(
            ArchitectureError, match=r"it scales its whole output\. Leave out `scale`"
        ):
            expression(source, block, "ffn_down.weight")


def test_unlike_shapes_are_refused(source: Source) -> None:
    with pytest.raises(ArchitectureError, match=r"blk\.0\.attn_q\.weight and blk\.3\.attn_q"):
        expression(source, Blend((take(0), take(3)), "mean"), "attn_q.weight")


def test_unknown_names(source: Source) -> None:
    with pytest.raises(PlanError, match="unknown way to blend: 'max'"):
        expression(source, Blend((take(0), take(1)), "max"), "attn_q.weight")


def test_blends_of_blends(source: Source) -> None:
    inner = Blend((take(0), take(1)), "mean")
    found = values(source, Blend((inner, take(2)), "lerp", params(weight=0.25)), "attn_q.weight")
    a, b, c = parents(source, "attn_q.weight", 0, 1, 2)
    np.testing.assert_allclose(found, 0.75 * (a + b) / 2 + 0.25 * c, atol=2e-8)
