"""Laws of the computing operations on plans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.errors import PlanError
from ggsurgery.plan import blend_ops, ops
from ggsurgery.plan.edits import BlendShell
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.plan.types import Blend, BlockRef, Edited, Plan, Take, references

SIZES = st.integers(3, 12)


@given(size=SIZES, data=st.data())
def test_a_merge_keeps_every_layer_as_a_parent(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size - 2))
    last = data.draw(st.integers(first + 1, size - 1))
    plan = blend_ops.merge(Plan.identity(size), range(first, last + 1))
    assert plan.n_layers == size - (last - first)
    assert [r.index for b in plan.blocks for r in references(b)] == list(range(size))
    assert plan.blocks[first] == Blend(
        tuple(Take(BlockRef(0, i)) for i in range(first, last + 1)), "rdsc"
    )


@given(size=SIZES, data=st.data())
def test_deleting_what_was_inserted_restores(size: int, data: st.DataObject) -> None:
    plan = Plan.identity(size)
    a, b = data.draw(st.permutations(range(size)))[:2]
    at = data.draw(st.none() | st.integers(0, size))
    longer = blend_ops.interpolate(plan, (a, b), at=at)
    assert ops.delete(longer, [a + 1 if at is None else at]) == plan
    bridged = blend_ops.bridge(plan, a, data.draw(st.integers(0, size)), scale=0.5)
    new = [i for i, block in enumerate(bridged.blocks) if isinstance(block, Edited)]
    assert ops.delete(bridged, new) == plan


@given(size=SIZES, times=st.integers(1, 3), scale=st.none() | st.floats(0, 2))
def test_a_scaled_duplicate_has_the_layers_of_a_plain_one(
    size: int, times: int, scale: float | None
) -> None:
    plan = Plan.identity(size)
    plain = ops.duplicate(plan, [1, 2], times=times)
    scaled = blend_ops.duplicate(plan, [1, 2], times=times, scale=scale)
    assert [references(b) for b in scaled.blocks] == [references(b) for b in plain.blocks]
    changed = {i for i, b in enumerate(scaled.blocks) if isinstance(b, Edited)}
    expected = set() if scale in (None, 1) else set(range(3, 3 + 2 * times))
    assert changed == expected


def test_the_published_v2_recipe() -> None:
    """Qwen3-tiny-v2: two swaps, an interpolation, a bridge: 28 → 30 layers."""
    recipe = Recipe(
        (
            step("swap", layers="12,13"),
            step("swap", layers="16,17"),
            step("interpolate", layers="20,22", weight=0.5),
            step("bridge", layer=5, at=21),
        )
    )
    plan = recipe.apply(Plan.identity(28))
    assert plan.n_layers == 30
    assert plan.blocks[21] == Take(BlockRef(0, 5))
    assert plan.blocks[22].method == "lerp"  # type: ignore[union-attr]
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_blend_of_models_with_a_base() -> None:
    plan = blend_ops.blend(Plan.identity(3), 3, "ties", density=0.2)
    assert plan.n_sources == 3
    assert references(plan.blocks[1]) == tuple(BlockRef(s, 1) for s in range(3))
    (shell,) = plan.edits
    assert isinstance(shell, BlendShell)
    assert dict(shell.params)["weights"] == (0.5, 0.5)


def test_a_blend_of_some_layers_takes_the_rest_from_the_first_model() -> None:
    plan = blend_ops.blend(Plan.identity(3), 3, "task-arithmetic", layers=(1,))
    assert plan.blocks[0] == Take(BlockRef(1, 0))
    assert plan.shell == 1
    assert not plan.edits


@pytest.mark.parametrize(
    ("weights", "normalize", "expected"),
    [
        ("1,1", None, (0.5, 0.5)),
        ("3,1", True, (0.75, 0.25)),
        ("0.7,0.3", None, (0.7, 0.3)),
        ("-1,3", None, (-0.5, 1.5)),
        ("1,1", False, (1.0, 1.0)),
        ("1,-1", False, (1.0, -1.0)),
    ],
)
def test_linear_weights_are_divided_by_their_sum(
    weights: str, normalize: bool | None, expected: tuple[float, ...]
) -> None:
    """As mergekit's `linear` does by default (its parameter `normalize`)."""
    one = step("blend", models=2, method="linear", weights=weights, normalize=normalize)
    plan = Recipe((one,)).apply(Plan.identity(3))
    for block in plan.blocks:
        assert dict(block.params)["weights"] == expected  # type: ignore[union-attr]
    (shell,) = plan.edits
    assert isinstance(shell, BlendShell)
    assert dict(shell.params)["weights"] == expected


def wrong(name: str, match: str, **arguments: object) -> object:
    return pytest.param(name, arguments, match, id=f"{name} {match}")


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        wrong("merge", "takes neighbouring layers", layers="3"),
        wrong("merge", "takes neighbouring layers", layers="3,5"),
        wrong("merge", "takes neighbouring layers", layers="4,3"),
        wrong("merge", "does not exist", layers="8-12"),
        wrong("merge", "unknown method 'max'", layers="3-4", method="max"),
        wrong("merge", "unknown parts", layers="3-4", parts="half"),
        wrong("merge", "factor belongs to the method damped", layers="3-4", factor=0.5),
        wrong("merge", "which needs one", layers="3-4", method="damped"),
        wrong("merge", "factor out of range", layers="3-4", method="damped", factor="nan"),
        wrong("interpolate", "weight out of range", layers="3,4", weight=1.5),
        wrong("interpolate", "two layers", layers="3"),
        wrong("interpolate", "position 30", layers="3,4", at=30),
        wrong("bridge", "layer 10 does not exist", layer=10, at=1),
        wrong("bridge", "scale out of range", layer=1, at=1, scale="inf"),
        wrong("duplicate", r"within ±3.403e\+38, found 1e\+39", layer=1, scale=1e39),
        wrong("blend", "too few models", models=1, method="linear"),
        wrong("blend", "too many models", models=10**12, method="linear"),
        wrong("blend", "slerp blends two", models=3, method="slerp"),
        wrong("blend", "slerp takes one weight", models=2, method="slerp", weights="0.5,0.5"),
        wrong("blend", "one weight for each", models=2, method="linear", weights="1"),
        wrong("blend", "density belongs to", models=2, method="linear", density=0.5),
        wrong("blend", "density belongs to", models=3, method="ties"),
        wrong("blend", "density out of range", models=3, method="ties", density=0),
        wrong("blend", "scale belongs to", models=2, method="linear", scale=2),
        wrong("blend", "seed belongs to dare", models=2, method="linear", seed=1),
        wrong("blend", "density belongs to", models=2, method="slerp", density=0.5),
        wrong("blend", "normalize belongs", models=2, method="slerp", normalize=True),
        wrong("blend", "add up to 0.*found 1, -1", models=2, method="linear", weights="1,-1"),
        wrong("blend", "add up to 0", models=2, method="linear", weights="0,0"),
        wrong("prune", "either a sparsity or a pattern"),
        wrong("prune", "sparsity out of range", sparsity=50, scope="row"),
        wrong("prune", "not an N:M pattern", pattern="4:2"),
        wrong("prune", "wanda needs an imatrix", sparsity=0.5, scope="row", score="wanda"),
        wrong("prune", "unknown scope", sparsity=0.5, scope="layer"),
        wrong("prune", "a scope belongs to a sparsity", pattern="2:4", scope="row"),
        wrong("prune", 'text in quotes, such as "2:4", found 124', pattern=124),  # YAML's 2:4
        wrong(
            "blend",
            "a weight out of range: .* found inf",
            models=2,
            method="linear",
            weights="inf,1",
        ),
    ],
)
def test_refused(name: str, arguments: dict[str, object], match: str) -> None:
    with pytest.raises(PlanError, match=match):
        step(name, **arguments).apply(Plan.identity(10))


def test_a_prune_stands_behind_what_changes_layers() -> None:
    prune, delete = step("prune", sparsity=0.5), step("delete", layer=1)
    unset = step("unset", key="general.url")
    assert Recipe((delete, prune, prune, unset)).apply(Plan.identity(4)).n_layers == 3
    with pytest.raises(PlanError, match=r"step 2 \(delete 1\): a prune works on the finished"):
        Recipe((prune, delete)).apply(Plan.identity(4))


def test_models_are_blended_before_anything_else() -> None:
    changed = ops.delete(Plan.identity(4), [1])
    with pytest.raises(PlanError, match="before all other operations"):
        blend_ops.blend(changed, 2, "linear")
