"""Recipes: the same document as YAML, JSON and Python; what is wrong is named."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.errors import FormatError, PlanError
from ggsurgery.plan import ops
from ggsurgery.plan.recipe import Recipe, load_recipe, step
from ggsurgery.plan.types import Plan

layer_text = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True).map(
    lambda layers: ",".join(map(str, layers))
)
steps = st.one_of(
    st.builds(lambda t: step("delete", layer=t), layer_text),
    st.builds(lambda t: step("keep", layers=t), layer_text),
    st.builds(lambda t, n: step("move", layer=t, to=n), layer_text, st.integers(0, 9)),
    st.builds(lambda t, n: step("duplicate", layer=t, times=n), layer_text, st.integers(1, 3)),
    st.builds(lambda v: step("set", key="general.name", value=v), st.text() | st.integers()),
    st.just(step("drop_mtp")),
)
recipes = st.builds(
    Recipe,
    st.lists(steps, max_size=5).map(tuple),
    st.none() | st.text(min_size=1),
    st.just(()) | st.just((("drop_mtp", True),)),
)


@given(recipes)
def test_round_trip(recipe):
    assert Recipe.from_json(json.loads(recipe.dumps())) == recipe
    assert Recipe.from_json(yaml.safe_load(yaml.safe_dump(recipe.to_json()))) == recipe
    assert "\n" not in recipe.dumps()


def test_a_recipe_file_does_what_the_operations_do(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: New\n"
        "operations:\n"
        "  - delete: 10\n"
        '  - swap: {layers: "11,12"}\n'
        "  - duplicate: {layer: [3, 4], to: 0}\n"
        "  - drop_mtp\n"
    )
    recipe = load_recipe(path)
    plan = Plan.identity(20, 1)
    expected = ops.delete(plan, [10])
    expected = ops.swap(expected, 11, 12)
    expected = ops.drop_tail(ops.duplicate(expected, [3, 4], 0))
    assert (recipe.apply(plan), recipe.name) == (expected, "New")
    assert recipe.describe() == "delete 10; swap 11,12; duplicate [3, 4] to=0; drop_mtp"


def test_the_failing_step_is_named():
    recipe = Recipe((step("delete", layer="0"), step("delete", layer="9")))
    with pytest.raises(PlanError, match=r"step 2 \(delete 9\): layer 9 does not exist.*0 to 8"):
        recipe.apply(Plan.identity(10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a recipe: expected a list of operations"),
        ("just text", "not a recipe"),
        ("operations: 7", "operations must be a list: found int"),
        ("operation: []", "unknown key 'operation'. Did you mean operations?"),
        ("- delet: 10", "operation 1: unknown operation 'delet'. Did you mean delete?"),
        ("- delete: 1\n  swap: 2", "operation 1 is not one operation with its arguments"),
        ("- 10", "operation 1 is not one operation"),
        ("- delete: 1\n- move: 3", r"operation 2 \(move\) needs its arguments by name"),
        (
            "- set: {key: a, value: 2024-01-01}",
            "an argument is not a plain value.*dates into quotes",
        ),
        ("- delete: &a [*a]", r"line 1: \*a holds itself"),
        ("a: [b", "no valid YAML"),
        ("\x07", "no valid YAML"),
        ("!!python/object/apply:os.system [true]", "no valid YAML"),
        ("operations: []\noptions: 3", "options must be a mapping"),
        ("[" * 5000, "(nesting depth|nested too deep)"),
        ("operations: []\noperations: []", "line 2: duplicate key .operations."),
        ("- delete: {layer: 1,\n    layer: 2}", "line 2: duplicate key .layer."),
    ],
)
def test_no_recipe(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(FormatError, match=rf"r\.yaml: .*{message}") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4")
    with pytest.raises(FormatError, match="not a UTF-8 text"):
        load_recipe(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "delete needs the argument 'layer'"),
        ({"layers": "1"}, "delete needs the argument 'layer'"),
        ({"layer": "1", "too": 1}, "delete: unknown argument 'too'. Known: layer"),
        ({"layer": 1.5}, "not a list of layers"),
        ({"layer": "x"}, "not a list of layers"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(PlanError, match=message):
        step("delete", **arguments).apply(Plan.identity(4))


@pytest.mark.parametrize("to", ["x", 1.5, True, [1]])
def test_numbers_must_be_whole(to):
    with pytest.raises(PlanError, match="move: argument 'to'"):
        step("move", layer="1", to=to).apply(Plan.identity(4))
