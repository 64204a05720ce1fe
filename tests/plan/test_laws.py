"""Laws of the operations, checked on random stacks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.plan import ops
from ggsurgery.plan.types import Plan

MAX = 40


@st.composite
def plans(draw, at_least: int = 1) -> Plan:
    """A stack with and without a tail, already rearranged: repeats and gaps."""
    count = draw(st.integers(at_least, MAX))
    tail = draw(st.integers(0, 2))
    plan = Plan.identity(count + tail, tail)
    order = draw(st.lists(st.integers(0, count - 1), min_size=at_least, max_size=MAX))
    return ops.keep(plan, order)


@st.composite
def plans_with_layers(draw, at_least: int = 1) -> tuple[Plan, list[int]]:
    plan = draw(plans(at_least))
    indices = st.integers(0, len(plan.blocks) - 1)
    return plan, draw(st.lists(indices, min_size=1, max_size=len(plan.blocks), unique=True))


@given(st.data())
def test_swap_twice_is_identity_and_swaps_commute_in_their_arguments(data):
    plan = data.draw(plans(at_least=2))
    pair = st.lists(st.integers(0, len(plan.blocks) - 1), min_size=2, max_size=2, unique=True)
    a, b = data.draw(pair)
    once = ops.swap(plan, a, b)
    assert ops.swap(once, a, b) == plan
    assert once == ops.swap(plan, b, a)
    assert Counter(once.blocks) == Counter(plan.blocks)
    assert (once.blocks[a], once.blocks[b]) == (plan.blocks[b], plan.blocks[a])


@given(plans_with_layers(), st.data())
def test_move_keeps_every_layer_and_puts_the_group_where_it_was_asked(case, data):
    plan, layers = case
    to = data.draw(st.integers(0, len(plan.blocks) - len(layers)))
    moved = ops.move(plan, layers, to)
    assert Counter(moved.blocks) == Counter(plan.blocks)
    assert moved.blocks[to : to + len(layers)] == tuple(plan.blocks[i] for i in layers)
    rest = [b for i, b in enumerate(plan.blocks) if i not in layers]
    assert [*moved.blocks[:to], *moved.blocks[to + len(layers) :]] == rest


@given(plans_with_layers())
def test_moving_one_layer_back_restores(case):
    plan, (layer, *_) = case
    for to in range(len(plan.blocks)):
        assert ops.move(ops.move(plan, [layer], to), [to], layer) == plan


@given(plans_with_layers(), st.integers(1, 3), st.data())
def test_deleting_fresh_copies_restores(case, times, data):
    plan, layers = case
    to = data.draw(st.none() | st.integers(0, len(plan.blocks)))
    grown = ops.duplicate(plan, layers, to, times)
    place = max(layers) + 1 if to is None else to
    count = len(layers) * times
    assert len(grown.blocks) == len(plan.blocks) + count
    assert ops.delete(grown, range(place, place + count)) == plan


@given(plans_with_layers(at_least=2))
def test_delete_is_keep_of_the_others(case):
    plan, layers = case
    others = [i for i in range(len(plan.blocks)) if i not in layers]
    if others:
        assert ops.delete(plan, layers) == ops.keep(plan, others)


@given(plans())
def test_keep_of_all_is_identity_and_keeps_compose(plan):
    count = len(plan.blocks)
    assert ops.keep(plan, range(count)) == plan
    backwards = list(range(count))[::-1]
    assert ops.keep(ops.keep(plan, backwards), backwards) == plan


@given(plans())
def test_the_tail_stays_until_it_is_dropped(plan):
    assert ops.keep(plan, [0]).tail == plan.tail
    without = ops.drop_tail(plan)
    assert (without.tail, without.blocks) == ((), plan.blocks)
    assert ops.drop_tail(without) == without


@given(plans(), plans())
def test_digests_tell_plans_apart(one, other):
    assert (one.digest == other.digest) == (one == other)
