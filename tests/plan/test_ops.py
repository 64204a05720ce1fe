"""What the operations refuse, and what they say then."""

from __future__ import annotations

import pytest

from ggsurgery.errors import PlanError
from ggsurgery.plan import ops
from ggsurgery.plan.types import Plan

PLAN = Plan.identity(8, 2)  # trunk 0-5, tail 6-7


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: ops.delete(PLAN, [8]), r"^layer 8 does not exist: expected 0 to 5$"),
        (lambda: ops.delete(PLAN, [-1]), r"^layer -1 does not exist: expected 0 to 5$"),
        (lambda: ops.delete(PLAN, [6]), r"layer 6 is a tail \(MTP\) layer.*`drop_mtp`"),
        (lambda: ops.delete(PLAN, [1, 2, 1]), r"^layer 1 is named twice$"),
        (lambda: ops.delete(PLAN, range(6)), r"no layer would be left.*all 6 deleted"),
        (lambda: ops.keep(PLAN, []), r"no layer would be left"),
        (lambda: ops.keep(PLAN, [0, 9]), r"layer 9 does not exist"),
        (lambda: ops.swap(PLAN, 2, 2), r"layer 2 is named twice"),
        (lambda: ops.swap(PLAN, 0, 7), r"layer 7 is a tail"),
        (lambda: ops.move(PLAN, [0, 1], 5), r"position 5 does not exist: expected 0 to 4"),
        (lambda: ops.move(PLAN, [0], -1), r"position -1 does not exist"),
        (lambda: ops.duplicate(PLAN, [0], 7), r"position 7 does not exist: expected 0 to 6"),
        (lambda: ops.duplicate(PLAN, [0], times=0), r"impossible number of copies.*found 0"),
        (lambda: ops.duplicate(PLAN, []), r"no layer named to duplicate"),
        (lambda: ops.duplicate(PLAN, [0], times=10**9), r"more layers than llama.cpp can run"),
        (lambda: ops.keep(PLAN, [0] * 511), r"expected at most 512, found 513"),
    ],
)
def test_refused(attempt, message):
    with pytest.raises(PlanError, match=message):
        attempt()


def test_a_stack_that_is_already_too_deep_may_shrink():
    deep = Plan.identity(600)
    assert len(ops.delete(deep, [0]).blocks) == 599
    assert len(ops.keep(deep, range(599)).blocks) == 599


def test_duplicate_places_copies_behind_the_originals():
    grown = ops.duplicate(PLAN, [1, 2], times=2)
    assert [b.ref.index for b in grown.blocks] == [0, 1, 2, 1, 2, 1, 2, 3, 4, 5]


def test_move_counts_in_the_new_stack():
    assert [b.ref.index for b in ops.move(PLAN, [3], 5).blocks] == [0, 1, 2, 4, 5, 3]
