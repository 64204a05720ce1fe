"""`gguf.constants` without the rest of the package gguf.

Reading headers and copying tensors takes gguf's enumerations and nothing else of it, while
`import gguf` loads numpy, sentencepiece and urllib: much of the time of a cut that copies
for a second. So the one module is put where Python looks first, under its own name, and
`import gguf`, where somebody needs it, finds it there and goes on as ever.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

PACKAGE, MODULE = "gguf", "gguf.constants"


class _WholePackage(MetaPathFinder):
    """Binds the module as an attribute of its package when that is imported after all.

    Python does so itself only for submodules that are imported after their package.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(package: ModuleType) -> None:
            setattr(package, "constants", self.module)  # noqa: B010 – mypy knows no such attribute
            execute(package)

        setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 – of this one loader
        return spec


def load_constants() -> None:
    """Make `from gguf.constants import …` load that module alone.

    Does nothing where gguf is loaded already, is not there, or is no plain folder of files:
    then the imports find it, or fail, as they would have.
    """
    if PACKAGE in sys.modules or MODULE in sys.modules:
        return
    package = PathFinder.find_spec(PACKAGE)
    if package is None or package.submodule_search_locations is None:
        return
    spec = PathFinder.find_spec(MODULE, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        spec.loader.exec_module(module)
    except Exception:  # noqa: BLE001 – a version that needs its package first, in whatever way
        del sys.modules[MODULE]
        return
    sys.meta_path.insert(0, _WholePackage(module))
