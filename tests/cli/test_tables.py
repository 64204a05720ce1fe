"""Tables fit the terminal, and characters are counted as the terminal shows them."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.cli._output import shown_width, table, wrap

from .._command import command, environment
from .._gguf import tiny_llama

HEADER = ("step", "n", "what")
ROWS = [
    ("cut", 12, "delete 10; swap 11,12 and a long description of what this step does to the file"),
    ("层", 3, "层数减少一半 と 書きます"),
]


def test_text_is_wrapped_and_figures_stay_whole() -> None:
    text = table(ROWS, HEADER, width=40)
    lines = text.splitlines()
    assert max(map(shown_width, lines)) <= 40
    assert "12" in lines[2]
    words = " ".join(line[lines[0].index("what") :].strip() for line in lines[2:5])
    assert words.split() == str(ROWS[0][2]).split()[: len(words.split())]


def test_without_a_terminal_nothing_is_wrapped() -> None:
    assert len(table(ROWS, HEADER).splitlines()) == 2 + len(ROWS)
    assert str(ROWS[0][2]) in table(ROWS, HEADER)


def test_wide_characters_take_two_cells() -> None:
    """East Asian wide characters, and accents that stand on the letter before them."""
    assert shown_width("层数") == 4
    assert shown_width(unicodedata.normalize("NFD", "é")) == 1
    rows = [("层数", "a"), ("ab", "b")]
    first, second = table(rows, ("x", "y")).splitlines()[2:]
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
