"""Expression trees print as a person would write them, and know their inputs."""

from __future__ import annotations

from ggsurgery.ggufio.types import TensorInfo
from ggsurgery.plan.edits import params
from ggsurgery.tensors.expr import Apply, Combine, Given, Read, Slice, describe, reads

A = Read(0, TensorInfo("blk.1.w", (8, 4), 0, 0, 128))
B = Read(1, TensorInfo("blk.2.w", (8, 4), 0, 0, 128))
TREE = Apply(
    Combine((A, B, Slice(A, 0, ((0, 2), (4, 6)))), "linear", params(weights=0.25)),
    "scale",
    params(factor=1 / 3),
)


def test_reads_in_order_of_appearance():
    assert reads(TREE) == (A, B, A)
    assert reads(Given("w", (8,))) == ()


def test_described():
    assert describe(TREE) == (
        "scale(linear(blk.1.w, 1:blk.2.w, blk.1.w[axis 0: 0:2, 4:6], weights=0.25), "
        "factor=0.333333)"
    )
    assert describe(Given("blk.1.w", (8,))) == "given blk.1.w"
