"""Layer lists: written, read, refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.errors import PlanError
from ggsurgery.plan.text import format_layers, parse_layers, parse_pair


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("3", (3,)),
        (3, (3,)),
        ("3-5", (3, 4, 5)),
        ("7-7", (7,)),
        ("0-2,11,13,12,14-15", (0, 1, 2, 11, 13, 12, 14, 15)),
        (" 1 , 2 - 3 ", (1, 2, 3)),
        ([4, 1, 4], (4, 1, 4)),
        (["0-1", 5], (0, 1, 5)),
    ],
)
def test_read(text, layers):
    assert parse_layers(text) == layers


@given(st.lists(st.integers(0, 99_999), min_size=1))
def test_round_trip(layers):
    assert parse_layers(format_layers(layers)) == tuple(layers)


@given(st.lists(st.integers(0, 600), min_size=1))
def test_no_shorter_text_with_the_same_runs(layers):
    runs = sum(b != a + 1 for a, b in pairwise(layers)) + 1
    assert format_layers(layers).count(",") == runs - 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "1,",
        "a",
        "1-",
        "-1",
        "1--2",
        "1.5",
        "0x1",
        "٣",
        "1\n2",
        "1 2",
        "3 - 4 5",
        True,
        None,
        1.5,
        {},
        [],
    ],
)
def test_not_a_list(text):
    with pytest.raises(PlanError, match="not a list of layers: expected such as 3, 3-5"):
        parse_layers(text)


def test_a_backward_range_says_how_to_write_it():
    with pytest.raises(PlanError, match=r"range 5-3 runs backwards\. .*write 5,4,3"):
        parse_layers("5-3")


def test_an_absurd_range_costs_nothing():
    for text in ("0-999999999", "999999999-0", ",".join(["0-9999"] * 10**5)):
        with pytest.raises(PlanError, match="longer than any model"):
            parse_layers(text)
    with pytest.raises(PlanError, match="not a list"):
        parse_layers("9" * 5000)


def test_pairs():
    assert parse_pair("11,12") == parse_pair([11, 12]) == (11, 12)
    for wrong in ("11", "1-3", "1,2,3"):
        with pytest.raises(PlanError, match="two layers are needed"):
            parse_pair(wrong)
