"""Progress bars: quiet in logs, and no traceback when Ctrl-C meets one that is being made."""

from __future__ import annotations

import gc
import io
import re
import subprocess
import sys
import time

import pytest

from ggsurgery.cli import _progress
from ggsurgery.cli._progress import Bar, PlainLines, bytes_bar, for_people
from tests._command import environment


def test_ctrl_c_inside_the_constructor_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "_get_free_pos", interrupted)
    unraised: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraised.append)
    with pytest.raises(KeyboardInterrupt):
        Bar(total=3)
    gc.collect()
    assert not unraised
    assert "Traceback" not in capsys.readouterr().err


def test_nothing_is_drawn_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with bytes_bar("copy", 10) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_short_work_draws_nothing_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    with Bar(total=1, file=screen) as bar:
        bar.update(1)
    assert "%" not in screen.getvalue()


def test_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log showed nothing for hours: a line every EVERY_S, also while a step is silent."""
    monkeypatch.setattr(_progress, "EVERY_S", 0.05)
    with Bar(desc="probes", unit="window", total=8) as bar:
        bar.update(2)
        time.sleep(0.3)
        bar.reset(4)
        bar.set_description("comparison")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert re.fullmatch(r"probes: 25%, 2 of 8 windows, about \d+ s left", lines[0])
    assert re.fullmatch(r"comparison: \d+ s so far", lines[-1])
    time.sleep(0.2)
    assert capsys.readouterr().err == ""  # the end of the bar ends the lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (200, "3 min"), (7500, "2 h 5 min")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert for_people(seconds) == text


def test_a_line_estimates_the_rest() -> None:
    lines = PlainLines("copy", "B", 100, scaled=True)
    lines.stop()
    lines.done = 20
    assert lines.line(60) == "copy: 20%, about 4 min left"


SHUTDOWN = """
from ggsurgery.cli import _progress
bars = [_progress.Bar(desc="work", total=9) for _ in range(300)]
for bar in bars:
    bar.close()
"""


def test_the_interpreter_ends_while_the_threads_of_bars_do():
    """It cuts them off anywhere, with a lock in hand, and closes the bars once more."""
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", SHUTDOWN],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "Traceback" not in done.stderr
