"""The C library itself: sanitizers, the choice of the instruction set, broken set-ups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gguf.constants import GGMLQuantizationType

from ggsurgery.errors import EngineError
from ggsurgery.tensors.kernels import native
from tests._gguf import tiny_llama
from tests._needs import ROOT, missing, needs_program


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.slow
def test_kernels_under_sanitizers(tmp_path: Path) -> None:
    cmake = needs_program("cmake")
    needs_program("cc")
    build = [cmake, "-S", str(ROOT / "native"), "-B", str(tmp_path)]
    subprocess.run([*build, "-DGGS_SANITIZE=ON", "-DGGS_TESTS=ON"], check=True, capture_output=True)
    subprocess.run([cmake, "--build", str(tmp_path), "-j", "2"], check=True, capture_output=True)
    found = subprocess.run(
        [str(tmp_path / "test_kernels")], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert " 0 failures" in found.stdout
    assert "ref" in found.stdout


@pytest.mark.slow
def test_neon_in_an_emulator(tmp_path: Path) -> None:
    """The same C test, compiled for AArch64 and run by qemu: NEON has the reference's bits."""
    compiler, emulator = needs_program("aarch64-linux-gnu-gcc"), needs_program("qemu-aarch64")
    native_, program = ROOT / "native", tmp_path / "test_kernels"
    sources = [native_ / "src" / "dispatch.c", native_ / "tests" / "test_kernels.c"]
    for isa in ("ref", "neon"):
        sources += sorted((native_ / "src").glob(f"*_{isa}.c"))
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-ffp-contract=off"]
    subprocess.run(
        [
            compiler,
            *flags,
            "-DGGS_ARM64",
            "-I",
            native_ / "include",
            *sources,
            "-lm",
            "-o",
            program,
        ],
        check=True,
    )
    found = subprocess.run([emulator, program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "\nneon\n" in found.stdout
    assert " 0 failures" in found.stdout


def library() -> Path:
    for path in native.candidates():
        if path.is_file():
            return path
    missing("the compiled kernels (make native)")


@pytest.mark.parametrize("isa", ["ref", "avx2", "avx512", "neon"])
def test_environment_forces_the_instruction_set(isa: str) -> None:
    library()
    found = run_python(
        "from ggsurgery.tensors.kernels import backend; print(backend().name)", GGSURGERY_ISA=isa
    )
    if found.returncode:
        assert f"GGSURGERY_ISA={isa} cannot be used on this CPU" in found.stderr
        assert isa != "ref"
    else:
        assert found.stdout == f"native ({isa})\n"


def test_without_a_library_numpy_serves_with_one_warning(tmp_path: Path) -> None:
    code = (
        "import logging; logging.basicConfig(format='%(name)s: %(message)s');"
        "import ggsurgery.tensors.kernels as k; from ggsurgery.tensors.kernels import native;"
        "native.candidates = lambda: iter(());"
        "print(k.backend().name, k.backend().name)"
    )
    found = run_python(code)
    assert found.stdout == "numpy numpy\n"
    assert found.stderr.count("no compiled kernels found") == 1
    assert "make native" in found.stderr


@pytest.mark.parametrize("isa", ["ref", "numpy"])
def test_every_back_end_writes_the_same_files(tmp_path: Path, isa: str) -> None:
    source = tiny_llama(tmp_path / "in.gguf", 5, kind=GGMLQuantizationType.F16)
    code = (
        "import sys; from ggsurgery.tensors.kernels import native;"
        "native.candidates = (lambda: iter(())) if sys.argv[1] == 'numpy' else native.candidates;"
        "from ggsurgery.cli import main; main(sys.argv[2:])"
    )
    for name, arguments in {
        "merge": ["merge", "--layers", "1-3"],
        "slerp": ["interpolate", "--layers", "1,3", "--method", "slerp"],
        "prune": ["prune", "--sparsity", "0.3"],
    }.items():
        files = [tmp_path / f"{name}-{n}.gguf" for n in ("best", isa)]
        for file, chosen in zip(files, ("", isa), strict=True):
            environment = {"GGSURGERY_ISA": "ref"} if chosen == "ref" else {}
            done = run_python(code, chosen, *arguments, str(source), str(file), **environment)
            assert done.returncode == 0, done.stderr
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_named_library_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GGSURGERY_NATIVE", str(tmp_path / "none.so"))
    with pytest.raises(EngineError, match="names no file"):
        native.load()


def test_named_library_must_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("not a library")
    monkeypatch.setenv("GGSURGERY_NATIVE", str(path))
    with pytest.raises(EngineError, match="do not load"):
        native.load()


def test_unknown_instruction_set() -> None:
    with pytest.raises(EngineError, match="unknown or this CPU lacks it"):
        native.Native(library()).select("mmx")
