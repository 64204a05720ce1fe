"""The requests as a library: typed for users, usable without the command line."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ggsurgery
from ggsurgery import PerplexityRequest, RepairRequest, ReplayRequest, RequestError, SurgeryRequest
from ggsurgery.errors import OutputError, PlanError
from ggsurgery.jobs.surgery import RecipeOptions
from ggsurgery.surgery.prepare import OPTIONS

from .._command import call
from .._needs import ROOT
from .._tiny import MODEL, SEARCH_TEXT

SAMPLE = ROOT / "tests/data/sample_program.py"

#: What a type checker must refuse, each on a line of its own.
WRONG = """
from ggsurgery import BenchRequest, PerplexityRequest
PerplexityRequest(file="a", text="b", ctx="512")
PerplexityRequest(file="a")
PerplexityRequest(file="a", text="b", chunks=3)
BenchRequest(file="a", tasks="piqa")
PerplexityRequest(file="a", text="b").run().nonsense
from ggsurgery import nonsense
"""


def strict(path: Path) -> subprocess.CompletedProcess[str]:
    flags = ["--strict", "--disallow-any-expr", "--follow-imports=silent", "--no-incremental"]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *flags, f"--config-file={ROOT / 'pyproject.toml'}", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_users_program_is_typed_without_any(tmp_path: Path) -> None:
    done = strict(SAMPLE)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    errors = [line for line in strict(wrong).stdout.splitlines() if ": error: " in line]
    refused = {int(line.split(":")[1]) for line in errors}
    assert refused == {3, 4, 5, 6, 7, 8}


def test_type_checkers_see_the_names_that_python_imports() -> None:
    tree = ast.parse(Path(ggsurgery.__file__).read_text(encoding="utf-8"))
    seen = {
        name.name: f"{node.module}"
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == ggsurgery._HOMES


def test_surgery_from_a_thread_as_in_a_notebook(tmp_path: Path) -> None:
    """No signal handler, no terminal; the bytes are the command's."""
    shutil.copy(MODEL, tmp_path / "in.gguf")
    call("delete", "--layer", "2", tmp_path / "in.gguf", tmp_path / "command.gguf")
    request = SurgeryRequest(
        files=[str(tmp_path / "in.gguf")],
        out=str(tmp_path / "out.gguf"),
        operations=[{"delete": {"layer": "2"}}],
    )
    assert request.check() == []
    calls: list[tuple[int, int]] = []
    found: list[float] = []

    def work() -> None:
        made = request.run(lambda done, total: calls.append((done, total)))
        measured = PerplexityRequest(file=made.path, text=SEARCH_TEXT, ctx=64, windows=2, threads=1)
        found.append(measured.run(lambda done, total: calls.append((done, total))).value)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "command.gguf").read_bytes()
    assert found and found[0] > 1
    assert (2, 2) in calls
    shown = call(
        "perplexity", tmp_path / "out.gguf", "-f", SEARCH_TEXT, "-c", 64, "--windows", 2, "-t", 1
    ).out
    assert f"{found[0]:.4f}" in shown


def test_a_surgery_needs_operations(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="either `operations` or a `recipe`"):
        SurgeryRequest(files=["a.gguf"], out="b.gguf")
    with pytest.raises(RequestError, match=r"`files`: expected a list, found 'a\.gguf'"):
        SurgeryRequest(files="a.gguf", out="b.gguf", operations=[{"delete": 1}])  # type: ignore[arg-type]


def test_a_recipe_and_a_surgery_have_the_same_options() -> None:
    assert set(RecipeOptions.__struct_fields__) == set(OPTIONS)
    request = SurgeryRequest(
        files=["a"], out="b", operations=[{"delete": 1}], out_type="f16", drop_mtp=True, name="n"
    )
    recipe = request.to_recipe()
    assert recipe.name == "n"
    assert dict(recipe.options) == {"drop_mtp": True, "out_type": "f16"}


def test_repair_and_replay(tmp_path: Path) -> None:
    made, again = tmp_path / "out.gguf", tmp_path / "again.gguf"
    SurgeryRequest(files=[MODEL], out=made, operations=[{"delete": {"layer": "2"}}]).run()
    request = ReplayRequest(made=made, files=[MODEL], out=again, threads=1)
    assert request.check() == []
    assert request.run().identical
    with pytest.raises(OutputError):
        request.check()
    with pytest.raises(PlanError, match="nothing to mend"):
        RepairRequest(file=made, out=tmp_path / "mended.gguf", removed="2").run()


def test_torch_is_imported_only_by_the_training() -> None:
    code = (
        "from ggsurgery import DistilRequest as D; import sys; assert D.check; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "ggsurgery.jobs.distil" in done.stdout.split()
    assert "torch" not in done.stdout.split()
