"""llama.cpp's own tools, of the very version that llama-cpp-python installed: the oracle.

    python -m tests._llama_tools          build them now and print where they are

Their driver code comes from the source distribution and is linked against the installed
libraries (a few minutes on two cores, once; kept in the user's cache folder). So they run the
same kernels as ggsurgery does, with argument handling, chunking, statistics and file writing
that nobody here wrote.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from ggsurgery.runtime import machine
from tests._llama_source import llama_source
from tests._needs import missing

try:
    import fcntl
except ImportError:  # pragma: no cover - no file locks on Windows
    fcntl = None  # type: ignore[assignment]

TOOLS = (
    "llama-quantize",
    "llama-perplexity",
    "llama-imatrix",
    "llama-gguf-split",
    "llama-export-lora",
)

#: What is compiled and linked around llama.cpp's source.
BUILD = Path(__file__).parent / "llama_tools"

#: Names a folder with tools that are built already.
VARIABLE = "GGSURGERY_LLAMA_TOOLS"


def llama_tool(name: str) -> str:
    """The path of a tool (one of `TOOLS`), built if need be.

    In a test: skips on a user's machine without compiler or network, fails in CI.
    """
    folder = Path(os.environ[VARIABLE]) if VARIABLE in os.environ else build()
    path = folder / name
    if not path.is_file():
        missing(f"llama.cpp's tool {path}")
    return str(path)


@cache
def build() -> Path:
    """The folder of the tools; builds them the first time, one process at a time."""
    how = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(BUILD.iterdir())))
    name = f"llama-tools-{version('llama-cpp-python')}-{how.hexdigest()[:8]}"
    folder = machine.cache_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not _work(folder):
            _build(folder)
    return folder


def _work(folder: Path) -> bool:
    """Whether all are there and start; the libraries may have moved with their environment."""
    return all(
        (folder / t).is_file()
        and subprocess.run([folder / t, "--help"], capture_output=True, check=False).returncode
        in (0, 1)
        for t in TOOLS
    )


def _build(folder: Path) -> None:
    if shutil.which("cmake") is None:
        missing("cmake, to build llama.cpp's tools")
    spec = find_spec("llama_cpp")
    assert spec is not None and spec.origin is not None
    work = folder / "build"
    shutil.rmtree(work, ignore_errors=True)
    configure = [
        "cmake",
        "-S",
        str(BUILD),
        "-B",
        str(work),
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DLLAMA_SOURCE={llama_source()}",
        f"-DLLAMA_LIBS={Path(spec.origin).parent / 'lib'}",
    ]
    for command in (configure, ["cmake", "--build", str(work), "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missing(f"a build of llama.cpp's tools ({(done.stderr or done.stdout)[-800:]})")
    for tool in TOOLS:
        shutil.move(work / tool, folder / tool)
    shutil.rmtree(work)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"llama.cpp's tools: {build()}\n")
    except (pytest.skip.Exception, pytest.fail.Exception) as problem:
        sys.exit(f"llama.cpp's tools are not built: {problem}")
