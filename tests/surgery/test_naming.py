"""The size label, against gguf-py's own."""

from __future__ import annotations

import pytest
from gguf.utility import size_label
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.ggufio.types import TensorInfo
from ggsurgery.surgery.naming import counted_size_label

SIZES = st.one_of(st.integers(1, 2**44), st.integers(1, 15).map(lambda e: 10**e))


@given(SIZES, SIZES, st.integers(0, 512))
@pytest.mark.filterwarnings("error")
def test_it_is_the_one_of_gguf_py(shared: int, expert: int, n_experts: int) -> None:
    dense = TensorInfo("blk.0.ffn_up.weight", (shared,), 0, 0, 0)
    assert counted_size_label([dense], n_experts) == size_label(shared, shared, 0, 0)
    experts = TensorInfo("blk.0.ffn_up_exps.weight", (expert, max(1, n_experts)), 0, 0, 0)
    total = shared + expert * max(1, n_experts)
    assert counted_size_label([dense, experts], n_experts) == size_label(
        total, shared, expert, n_experts
    )
