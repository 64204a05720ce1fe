"""Every architecture with rules: the layers keep their meaning, shown by llama.cpp's logits.

Each fixture is compared with networks that no surgery code has touched: the same model
with the deleted layers turned into exact bypasses, and the model written directly in the
new order with explicit arrays. A rule file and a recipe are all that a new family needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from ggsurgery.arch import all_rules, rules_for
from ggsurgery.arch.check import check
from ggsurgery.errors import ArchitectureError
from ggsurgery.ggufio.header import read_header

from ..fixtures import families, operate
from ..fixtures.network import Network

RECIPES = families.recipes()
#: Largest difference of logits as a share of their range that counts as equal.
EQUAL = 1e-3
#: Smallest difference that counts as felt.
FELT = 1e-2
WITHOUT_2 = "delete 2"


class Case:
    """One architecture's files and their logits, made once for all tests."""

    def __init__(self, recipe: families.Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.network = Network(recipe, folder)
        self.source = self.network.write("source.gguf")
        self.refusals: dict[str, str] = {}
        self.files = {"source": self.source}
        for number, (name, order) in enumerate(recipe.orders.items()):
            self._operate(name, order, folder / f"ours-{number}.gguf")
        if recipe.felt:
            self._careless()

    def _operate(self, name: str, order: families.Order, out: Path) -> None:
        try:
            operate.operate(self.source, order, out)
        except ArchitectureError as error:
            self.refusals[name] = str(error)
            return
        self.files[f"ours: {name}"] = out
        if self.recipe.direct:
            direct = self.network.write_in_order(f"direct-{out.name}", order)
            self.files[f"direct: {name}"] = direct
        n_trunk = self.network.outline.n_layers - self.recipe.tail
        if self.recipe.bypass and list(order) == sorted(set(order)):
            self._bypass(name, set(range(n_trunk)) - set(order))

    def _bypass(self, name: str, gone: set[int]) -> None:
        path = self.network.write(f"bypass-{len(self.files)}.gguf", zero=sorted(gone))
        self.files[f"bypass: {name}"] = path

    def _careless(self) -> None:
        order = [i for i in range(self.network.outline.n_layers) if i != 2]
        keys = self.network.pruned(order)
        self.files["careless"] = self.network.write_in_order("careless.gguf", order, keys)
        if f"bypass: {WITHOUT_2}" not in self.files:
            self._bypass(WITHOUT_2, {2})

    @cached_property
    def logits(self) -> dict[str, np.ndarray | str]:
        return operate.run(self.files, self.recipe.n_tokens, gap=self.recipe.gap)

    def get(self, name: str) -> np.ndarray:
        found = self.logits[name]
        assert not isinstance(found, str), f"{name}: {found}"
        assert np.isfinite(found).all() and np.ptp(found) > 0.1, f"{name}: no usable logits"
        return found


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with TemporaryDirectory() as folder:
        yield Case(RECIPES[request.param], Path(folder))


def _bypassed(recipe: families.Recipe) -> bool:
    return (
        recipe.bypass
        and recipe.runs
        and any(
            list(order) == sorted(set(order)) and name not in recipe.refused
            for name, order in recipe.orders.items()
        )
    )


every = pytest.mark.parametrize("case", list(RECIPES), indirect=True)
running = pytest.mark.parametrize(
    "case", [n for n, r in RECIPES.items() if r.runs and r.direct], indirect=True
)
bypassed = pytest.mark.parametrize(
    "case", [n for n, r in RECIPES.items() if _bypassed(r)], indirect=True
)
felt = pytest.mark.parametrize("case", [n for n, r in RECIPES.items() if r.felt], indirect=True)


@every
def test_refuses_what_no_file_can_say_and_nothing_else(case: Case) -> None:
    assert set(case.refusals) == set(case.recipe.refused)
    for name, words in case.recipe.refused.items():
        assert words in case.refusals[name], name


@every
def test_kinds_follow_their_layers(case: Case) -> None:
    header = read_header(case.source)
    before = rules_for(header).kinds(header)
    for name, order in case.recipe.orders.items():
        if name not in case.refusals:
            after = read_header(case.files[f"ours: {name}"])
            assert rules_for(after).kinds(after) == tuple(before[i] for i in order), name


@every
def test_verify_has_nothing_to_say_about_right_files(case: Case) -> None:
    for name, path in case.files.items():
        if name == "source" or name.startswith("ours: "):
            header = read_header(path)
            assert check(rules_for(header), header) == [], name


@running
def test_logits_equal_the_network_written_directly(case: Case) -> None:
    source = case.get("source")
    for name, order in case.recipe.orders.items():
        if name in case.refusals:
            continue
        ours = case.get(f"ours: {name}")
        assert operate.difference(ours, case.get(f"direct: {name}")) < EQUAL, name
        if order != tuple(range(len(order))):  # more than the tail has changed
            assert operate.difference(ours, source) > FELT, f"{name}: has no effect"


@bypassed
def test_logits_equal_an_exact_bypass(case: Case) -> None:
    names = [n.removeprefix("bypass: ") for n in case.files if n.startswith("bypass: ")]
    compared = [n for n in names if n not in case.refusals]
    assert compared
    for name in compared:
        ours = case.get(f"ours: {name}")
        assert operate.difference(ours, case.get(f"bypass: {name}")) < EQUAL, name


@felt
def test_careless_pruning_is_told_apart(case: Case) -> None:
    """The fixture is sharp: with stale metadata the same tensors fail to load or differ."""
    wrong = case.logits["careless"]
    if not isinstance(wrong, str):
        right = case.get(f"bypass: {WITHOUT_2}")
        assert operate.difference(right, wrong) > FELT


def test_every_mixed_family_has_a_sharp_fixture() -> None:
    """Where the position of a layer decides its window, rope or recurrence, pruning is felt."""
    sharp = {r.arch for r in RECIPES.values() if r.felt or not r.runs or not r.bypass}
    for name, rules in all_rules().items():
        positional = (
            rules.window or rules.rope or (rules.recurrent and rules.recurrent.pattern != "all")
        )
        if positional and not rules.refuse:
            assert name in sharp, name
