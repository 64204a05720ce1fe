"""What is temporary goes away: after a signal between any two steps, a crash, a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ggsurgery.errors import EngineError, OutputError
from ggsurgery.files import exchange, temporary
from ggsurgery.files.atomic import atomic_path
from ggsurgery.runtime import worker


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def make_and_end(folder: str, how: str) -> None:
    """In a worker: a scratch folder and an unfinished output, and then the end."""
    place = Path(folder)
    scratch = temporary.Folder("test", place=place)
    (scratch.path / "model.gguf").write_bytes(bytes(1000))
    with atomic_path(place / "out") as path:
        path.write_bytes(b"half")
        if how == "abort":
            os.write(2, b"ggml.c:12: GGML_ASSERT(x > 0) failed\n")
            os.abort()
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "wait":
            signal.pause()


@pytest.mark.parametrize("how", ["abort", "kill"])
def test_a_worker_that_crashes_leaves_nothing(tmp_path, how):
    with pytest.raises(EngineError, match="crashed"):
        worker.run(make_and_end, str(tmp_path), how)
    assert names(tmp_path) == set()


def test_a_worker_that_takes_too_long_leaves_nothing(tmp_path):
    with pytest.raises(EngineError, match="took longer"):
        worker.run(make_and_end, str(tmp_path), "wait", timeout=8)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("call", ["open", "fchmod", "flock"])
def test_a_signal_while_the_file_is_made(tmp_path, monkeypatch, call):
    """Ctrl-C arrives when the file exists, and nobody has got its descriptor yet."""
    (tmp_path / "in").write_bytes(b"x")
    (tmp_path / "in").chmod(0o600)
    home = temporary.fcntl if call == "flock" else os
    real = getattr(home, call)

    def interrupted(*arguments: object, **options: object) -> None:
        done = real(*arguments, **options)
        if call != "open" or "out" in str(arguments[0]):
            monkeypatch.setattr(home, call, real)
            if call == "open":
                os.close(done)
            raise KeyboardInterrupt

    monkeypatch.setattr(home, call, interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "out", inputs=[tmp_path / "in"]):
        pass
    assert names(tmp_path) == {"in"}


def test_what_an_interrupted_cleaning_left_goes_at_the_end(tmp_path, monkeypatch):
    """A second Ctrl-C in the midst of the cleaning after the first."""
    made = temporary.Folder("test", place=tmp_path)

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(temporary, "_delete", interrupt)
        with pytest.raises(KeyboardInterrupt):
            made.close()
    assert made.path.exists()
    temporary.remove_all()
    assert names(tmp_path) == set()
    made.close()


def test_the_folder_of_a_living_process_stays(tmp_path):
    with temporary.Folder("test", place=tmp_path) as ours:
        assert temporary.sweep(tmp_path) == []
        assert ours.is_dir()
        (tmp_path / f"{temporary.PREFIX}dead").mkdir()
        (tmp_path / f".out{temporary.MARK}01234567").mkdir()
        (tmp_path / f".out{temporary.MARK}76543210").write_bytes(b"x")
        assert len(temporary.sweep(tmp_path)) == 3
    assert names(tmp_path) == set()


def bundle(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "manifest.json").write_text(text)
    return path


@pytest.mark.parametrize("way", ["exchange", "rename"])
def test_one_of_two_bundles_is_always_there(tmp_path, monkeypatch, way):
    new, out = bundle(tmp_path / "new", "new"), bundle(tmp_path / "out", "old")
    if way == "rename":
        monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    exchange.swap_in(new, out)
    assert (out / "manifest.json").read_text() == "new"
    assert (new / "manifest.json").read_text() == "old"  # goes with the temporary folder
    assert names(tmp_path) == {"new", "out"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("step", [1, 2])
def test_the_older_bundle_comes_back(tmp_path, monkeypatch, error, step):
    new, out = bundle(tmp_path / "new", "new"), bundle(tmp_path / "out", "old")
    monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    real, calls = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == step:
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(error):
        exchange.swap_in(new, out)
    assert (out / "manifest.json").read_text() == "old"
    assert names(tmp_path) == {"new", "out"}


def test_a_run_that_was_killed_between_its_renames(tmp_path):
    out = tmp_path / "out"
    bundle(tmp_path / f".out{exchange.OLD}0123", "old")
    exchange.restore(out)
    assert (out / "manifest.json").read_text() == "old"
    bundle(tmp_path / f".out{exchange.OLD}0123", "older")  # killed after the second one
    exchange.restore(out)
    assert names(tmp_path) == {"out"}
    for number in (1, 2):
        bundle(tmp_path / f".none{exchange.OLD}{number}", str(number))
    with pytest.raises(OutputError, match="several older folders"):
        exchange.restore(tmp_path / "none")
