"""The llama.cpp source that the installed llama-cpp-python was built from.

It holds what these tests compare with: the chat templates of real models
(models/templates), vocabularies without weights (models/ggml-vocab-*.gguf) and the token
ids that their makers' tokenizers give (….inp, ….out).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from tests._needs import missing

try:
    import fcntl
except ImportError:  # pragma: no cover - no file locks on Windows
    fcntl = None  # type: ignore[assignment]

_INSIDE = "vendor/llama.cpp"


@lru_cache(maxsize=1)
def llama_source() -> Path:
    """The folder llama.cpp of the source distribution, downloaded once.

    `GGSURGERY_LLAMA_CPP` names a folder that is there already.
    """
    given = os.environ.get("GGSURGERY_LLAMA_CPP")
    if given:
        return Path(given)
    wanted = version("llama-cpp-python")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ggsurgery-tests"
    folder = cache / f"llama_cpp_python-{wanted}" / _INSIDE
    if (folder / "models/templates").is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "models/templates").is_dir():  # another process may have been quicker
            _fetch(wanted, cache)
    return folder


def _fetch(wanted: str, cache: Path) -> None:
    """Unpack the distribution into the cache; its folder appears whole or not at all."""
    archive = cache / f"llama_cpp_python-{wanted}.tar.gz"
    if not archive.is_file():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary=:all:",
            "--dest",
            str(cache),
            f"llama-cpp-python=={wanted}",
        ]
        if subprocess.run(command, check=False).returncode or not archive.is_file():
            missing(f"the source distribution of llama-cpp-python {wanted}")
    with tempfile.TemporaryDirectory(dir=cache) as scratch, tarfile.open(archive) as tar:
        members = [m for m in tar if f"/{_INSIDE}/" in m.name]
        tar.extractall(scratch, members=members, filter="data")
        name = f"llama_cpp_python-{wanted}"
        shutil.rmtree(cache / name, ignore_errors=True)  # half of one, of a stopped run
        Path(scratch, name).rename(cache / name)
