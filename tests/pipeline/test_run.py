"""A run goes on where it stopped and redoes what follows from a change, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggsurgery.cli import cli
from ggsurgery.errors import EngineError, OutputError
from ggsurgery.ggufio.header import read_header
from ggsurgery.pipeline import run as run_module
from ggsurgery.pipeline.run import Event, Pipeline
from ggsurgery.pipeline.state import NAME, locked
from tests._command import heed_signals
from tests._shapes import BYTES, small, write_shapes

RECIPE = """
name: Small cut
source: {file: in.gguf}
operations:
  - delete: {layer: "1"}
quantize: {types: [Q8_0, Q4_K_M]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shapes(tmp_path / "in.gguf", small("Small", 4), tokens=BYTES, seed=3)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "text.txt").write_text("Some words, said again. " * 60, encoding="utf-8")
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "recipe.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def run(folder: Path) -> list[str]:
    """Run the recipe; the names of the steps that were done (not skipped)."""
    done: list[str] = []

    def tell(event: Event) -> None:
        if event.kind == "done":
            done.append(event.task.name)

    Pipeline(folder / "recipe.yaml", folder / "out").run(tell)
    return done


def test_a_second_run_does_nothing_and_a_change_what_follows(folder: Path) -> None:
    assert run(folder) == ["cut", "quantize Q8_0", "quantize Q4_K_M"]
    assert run(folder) == []
    change(folder, "[Q8_0, Q4_K_M]", "[Q8_0, Q4_K_M, Q2_K]")
    assert run(folder) == ["quantize Q2_K"]
    (folder / "out/Small-cut-Q8_0.gguf").unlink()
    assert run(folder) == ["quantize Q8_0"]
    change(folder, 'layer: "1"', 'layer: "2"')
    assert run(folder) == ["cut", "quantize Q8_0", "quantize Q4_K_M", "quantize Q2_K"]
    write_shapes(folder / "in.gguf", small("Small", 4), tokens=BYTES, seed=4)
    assert run(folder)[0] == "cut"
    (folder / "out" / NAME).write_text("{", encoding="utf-8")  # a damaged state knows nothing
    with pytest.raises(OutputError, match="this run did not make"):
        run(folder)


def test_the_files_are_what_single_commands_make(folder: Path) -> None:
    change(folder, "operations:", "header: {general.license: mit}\noperations:")
    run(folder)
    cut = read_header(folder / "out/Small-cut.gguf")
    assert (cut.n_layers, cut.get("general.license")) == (3, "mit")
    assert cut.get("general.name") == "Small cut"
    alone = folder / "alone.gguf"
    arguments = ["quantize", str(cut.path), str(alone), "--type", "Q4_K_M"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert alone.read_bytes() == (folder / "out/Small-cut-Q4_K_M.gguf").read_bytes()


def test_with_an_imatrix(folder: Path) -> None:
    change(folder, "quantize: {types: [Q8_0, Q4_K_M]}",
           "imatrix: {text: text.txt, ctx: 128}\nquantize: {types: [IQ2_XS, Q4_K_M]}")  # fmt: skip
    planned = {p.task.name: p.n_bytes for p in Pipeline(folder / "recipe.yaml", "o").plan()}
    assert planned["quantize Q4_K_M"]
    assert planned["quantize IQ2_XS"] is None  # known once the matrix is there
    assert run(folder) == ["cut", "imatrix", "quantize IQ2_XS", "quantize Q4_K_M"]
    made = read_header(folder / "out/Small-cut-IQ2_XS.gguf")
    assert made.get("quantize.imatrix.file") == "Small-cut.imatrix.gguf"
    (folder / "text.txt").write_text("Other words, said often. " * 60, encoding="utf-8")
    assert run(folder) == ["imatrix", "quantize IQ2_XS", "quantize Q4_K_M"]


def test_a_type_that_needs_an_imatrix_is_told_before_the_work(folder: Path) -> None:
    change(folder, "[Q8_0, Q4_K_M]", "[Q8_0, IQ1_S]")
    with pytest.raises(EngineError, match="IQ1_S only with an importance matrix"):
        run(folder)
    change(folder, "IQ1_S", "Q4_K_X")
    with pytest.raises(EngineError, match="Did you mean Q4_K_S"):
        run(folder)
    assert not (folder / "out").exists()


def test_sizes_are_known_before_and_checked_against_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = {p.task.name: p.n_bytes for p in Pipeline(folder / "recipe.yaml", "o").plan()}
    usage = shutil.disk_usage(folder)
    tight = usage._replace(free=sum(n or 0 for n in planned.values()) - 1)
    with monkeypatch.context() as patched:
        patched.setattr(run_module.shutil, "disk_usage", lambda path: tight)
        with pytest.raises(OutputError, match="not enough room on the disk for all files"):
            run(folder)
    assert not (folder / "out").exists()
    run(folder)
    made = {p.name: p.stat().st_size for p in (folder / "out").glob("*.gguf")}
    assert made == {
        "Small-cut.gguf": planned["cut"],
        "Small-cut-Q8_0.gguf": planned["quantize Q8_0"],
        "Small-cut-Q4_K_M.gguf": planned["quantize Q4_K_M"],
    }


def test_a_file_of_somebody_else_is_not_replaced(folder: Path) -> None:
    (folder / "out").mkdir()
    theirs = folder / "out/Small-cut-Q8_0.gguf"
    theirs.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="this run did not make"):
        run(folder)
    assert theirs.read_text(encoding="utf-8") == "mine"


def test_two_runs_do_not_share_a_folder(folder: Path) -> None:
    (folder / "out").mkdir()
    with locked(folder / "out"), pytest.raises(OutputError, match="another run is at work"):
        run(folder)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on(folder: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "ggsurgery", "run", "recipe.yaml", "--out", "out"]
    child = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        start_new_session=True, preexec_fn=heed_signals,
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if "✓ cut" in line:
            break
    os.killpg(child.pid, how)
    _, rest = child.communicate(timeout=60)
    assert "Traceback" not in rest
    code = child.returncode
    assert code == (-9 if how is signal.SIGKILL else 130)
    finished = set(json.loads((folder / "out" / NAME).read_text(encoding="utf-8"))["steps"])
    assert "cut" in finished
    time.sleep(0.1)
    assert run(folder) == [n for n in ("quantize Q8_0", "quantize Q4_K_M") if n not in finished]
    assert not list((folder / "out").glob("*tmp*"))
    assert run(folder) == []
