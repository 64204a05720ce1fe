"""The curve of a vocabulary as a picture."""

from __future__ import annotations

from pathlib import Path

from .._command import call
from .._tiny import MODEL, SEARCH_TEXT


def test_the_curve_of_a_vocabulary_is_drawn(tmp_path: Path) -> None:
    text, plot = tmp_path / "text.txt", tmp_path / "curve.svg"
    text.write_text(SEARCH_TEXT.read_text("utf-8")[:4000], "utf-8")
    call("vocab", "count", MODEL, "--text", text, "--plot", plot)
    drawn = plot.read_text("utf-8")
    assert "tokens kept" in drawn and drawn.count("<circle") >= 10
    err = call("vocab", "count", MODEL, "--text", text, "--plot", plot, code=1).err
    assert "the output exists" in err
