"""Progress bars: quiet in logs, and no traceback when Ctrl-C meets one that is being made."""

from __future__ import annotations

import gc
import io

import pytest

from ggsurgery.cli._progress import Bar, bytes_bar


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
