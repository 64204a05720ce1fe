"""The nearest lists in phase, against a search through all lists."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from ggsurgery.arch.suggest import nearest

KINDS = [i % 3 == 2 for i in range(8)]


def place(n: int) -> list[bool]:
    return [i % 3 == 2 for i in range(n)]


def in_phase(layers: tuple[int, ...]) -> bool:
    return [KINDS[i] for i in layers] == place(len(layers))


@settings(deadline=None, max_examples=60)
@given(st.sets(st.integers(0, 7), min_size=1, max_size=7))
def test_nothing_is_nearer(chosen: set[int]) -> None:
    requested = sorted(chosen)
    found = [set(layers) for layers in nearest(requested, KINDS, place)]
    assert all(in_phase(tuple(sorted(layers))) for layers in found)
    every = [set(s) for n in range(1, 8) for s in combinations(range(8), n) if in_phase(s)]
    fewer = [len(chosen - s) for s in every if s <= chosen]
    assert min((len(chosen - s) for s in found if s <= chosen), default=None) == min(
        fewer, default=None
    )
    assert min(len(s ^ chosen) for s in found) == min(len(s ^ chosen) for s in every)


def test_another_order_only_loses_layers() -> None:
    found = nearest([1, 0, 5, 2, 3], KINDS, place)
    assert found and all(in_phase(tuple(layers)) for layers in found)
    assert set(found[0]) <= {0, 1, 2, 3, 5}


def test_out_of_reach_proposes_nothing() -> None:
    assert nearest([0], [False], lambda n: [True] * n) == []
    assert nearest([0], [False] * 300, lambda n: [True] * n) == []
