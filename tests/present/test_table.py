"""Tables fit the terminal, and characters are counted as the terminal shows them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import unicodedata
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.present.numbers import human_bytes
from ggsurgery.present.table import Cell, Table, shown_width, wrap

from .._command import command, environment
from .._gguf import tiny_llama
from .._needs import ROOT

HEADER = ("step", "n", "what")
ROWS = [
    ("cut", 12, "delete 10; swap 11,12 and a long description of what this step does to the file"),
    ("层", 3, "层数减少一半 と 書きます"),
]


def test_text_is_wrapped_and_figures_stay_whole() -> None:
    text = Table(HEADER, ROWS).text(40)
    lines = text.splitlines()
    assert max(map(shown_width, lines)) <= 40
    assert "12" in lines[2]
    words = " ".join(line[lines[0].index("what") :].strip() for line in lines[2:5])
    assert words.split() == str(ROWS[0][2]).split()[: len(words.split())]


def test_without_a_terminal_nothing_is_wrapped() -> None:
    assert len(Table(HEADER, ROWS).text().splitlines()) == 2 + len(ROWS)
    assert str(ROWS[0][2]) in Table(HEADER, ROWS).text()


def test_wide_characters_take_two_cells() -> None:
    """East Asian wide characters, and accents that stand on the letter before them."""
    assert shown_width("层数") == 4
    assert shown_width(unicodedata.normalize("NFD", "é")) == 1
    rows = [("层数", "a"), ("ab", "b")]
    first, second = Table(("x", "y"), rows).text().splitlines()[2:]
    assert first == "层数  a"
    assert second == "ab    b"


@given(st.text(alphabet="ab 层é\u0301", max_size=60), st.integers(4, 20))
def test_wrapping_loses_nothing_and_keeps_the_width(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(shown_width(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("columns", [60, 100])
def test_on_a_real_terminal(tmp_path, columns: int) -> None:
    model = tiny_llama(tmp_path / "in.gguf", 4)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {k: v for k, v in environment().items() if k not in ("COLUMNS", "LINES")}
    arguments = command("delete", "--layer", "1", "--dry-run", model, tmp_path / "out.gguf")
    child = subprocess.Popen(arguments, env=env, stdout=follower, stderr=subprocess.DEVNULL)
    os.close(follower)
    said = b""
    while True:
        try:
            block = os.read(leader, 1 << 16)
        except OSError:  # Linux: the other side is closed
            break
        if not block:
            break
        said += block
    os.close(leader)
    assert child.wait() == 0
    lines = said.decode().splitlines()
    assert any(line.startswith("ggsurgery.recipe") for line in lines)
    assert max(map(shown_width, lines)) <= columns


def test_the_three_forms_hold_the_same_cells() -> None:
    """One rule sets figures to the right; every form escapes what is markup in it alone."""
    noted = Cell("0.5000", (("n = 400", ""), ("Near random", "Near random")))
    table = Table(("name", "score", "what"), [("<b>|", noted, None), ("a", 0.25, "text")])
    text, markdown, page = table.text(), table.markdown(), table.html("scores")
    assert text.splitlines()[2:] == [
        "<b>|  0.5000 (n = 400; Near random)  –",
        "a                            0.2500  text",
    ]
    assert markdown.splitlines() == [
        "| name | score | what |",
        "| --- | ---: | --- |",
        r"| \<b\>\| | 0.5000 (n = 400; Near random) | – |",
        "| a | 0.2500 | text |",
    ]
    root = ElementTree.fromstring(page)
    cells = [list(row.itertext()) for row in root.iter("tr")]
    assert cells[1:] == [["<b>|", "0.5000", "n = 400", "Near random", "–"], ["a", "0.2500", "text"]]
    assert [cell.get("class") for cell in next(root.iter("tr"))] == ["text", None, "text"]
    assert [small.get("class") for small in root.iter("small")] == [None, "Near random"]


def test_pairs_are_aligned_without_a_header() -> None:
    assert Table((), [("name", 3), ("context", "1024")]).text() == "name     3\ncontext  1024"


def test_one_place_draws_tables() -> None:
    """No other module writes the rule of a Markdown table, a `<table>`, or pads columns."""
    drawing = re.compile(r"--- ?\||---:|<table|\"─\" \*|:[<>]?\d*\{?\w*width\}")
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "ggsurgery").rglob("*")
        if path.suffix in (".py", ".j2") and drawing.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["ggsurgery/present/table.py"]


def test_sizes_have_one_form() -> None:
    sizes = (0, 1023, 1536, 102_660_000, 5 << 28, 3 << 40, None)
    assert [human_bytes(n) for n in sizes] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "97.9 MiB",
        "1.25 GiB",
        "3.00 TiB",
        "–",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "12",
        "-0.5",
        "±0.1",
        "97.9 MiB",
        "0.50 ± 0.02",
        "10 → 7",
        "0-5,8",
        "3 (30 %)",
        "1e-05",
        "0.4 [0.2, 0.6]",
        "12.5 tokens/s",
        "≤ 1.0 GiB",
        "134,515,008",
        "×1.25",
        "inf",
        "–",
    ],
)
def test_figures_stand_on_the_right(text: str) -> None:
    assert Table(("name", "x"), [("a", text)]).right == [False, True]


@pytest.mark.parametrize(
    "text", ["1. item", "12) item", "7b-instruct.gguf", "3 of them fail", "Q8"]
)
def test_names_that_begin_with_a_digit_are_text(text: str) -> None:
    assert Table(("name", "x"), [("a", text)]).right == [False, False]
