"""gguf's constants without the package gguf around them.

Reading headers and copying tensors needs gguf's enumerations and nothing else of it, while
`import gguf` loads numpy, sentencepiece and urllib: much of the time of a cut that copies for
a second. So the one module is loaded from its file, under a name of ours, unless a program
has imported gguf already. The enumerations are integers: they equal gguf's own, member by
member, and either serves as a key for the other.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from enum import Enum
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

_MODULE = "gguf.constants"


def _load() -> ModuleType:
    """The module: gguf's own if imported, else a private copy.

    Raises:
        ModuleNotFoundError: gguf is not installed.
    """
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    package = PathFinder.find_spec("gguf")
    if package is not None and package.submodule_search_locations is not None:
        spec = PathFinder.find_spec(_MODULE, package.submodule_search_locations)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            for kind in vars(module).values():
                if isinstance(kind, type) and issubclass(kind, Enum):
                    kind.__reduce_ex__ = _reduced  # type: ignore[assignment]
            return module
    return importlib.import_module(_MODULE)  # an unusual installation, or none


def _reduced(member: Enum, _protocol: int) -> tuple[Callable[[str, Any], Any], tuple[str, Any]]:
    """How pickle stores a member of the private copy: by the name that this module gives it."""
    return _member, (type(member).__name__, member.value)


def _member(kind: str, value: Any) -> Any:
    return globals()[kind](value)


if TYPE_CHECKING:
    from gguf.constants import (
        GGML_QUANT_SIZES,
        GGML_QUANT_VERSION,
        GGUF_DEFAULT_ALIGNMENT,
        GGUF_MAGIC,
        GGUF_VERSION,
        MODEL_ARCH,
        MODEL_ARCH_NAMES,
        MODEL_TENSORS,
        TENSOR_NAMES,
        GGMLQuantizationType,
        GGUFValueType,
        Keys,
        LlamaFileType,
        TokenType,
    )
else:
    _gguf = _load()
    GGMLQuantizationType = _gguf.GGMLQuantizationType
    GGML_QUANT_SIZES = _gguf.GGML_QUANT_SIZES
    GGML_QUANT_VERSION = _gguf.GGML_QUANT_VERSION
    GGUFValueType = _gguf.GGUFValueType
    GGUF_DEFAULT_ALIGNMENT = _gguf.GGUF_DEFAULT_ALIGNMENT
    GGUF_MAGIC = _gguf.GGUF_MAGIC
    GGUF_VERSION = _gguf.GGUF_VERSION
    Keys = _gguf.Keys
    LlamaFileType = _gguf.LlamaFileType
    MODEL_ARCH = _gguf.MODEL_ARCH
    MODEL_ARCH_NAMES = _gguf.MODEL_ARCH_NAMES
    MODEL_TENSORS = _gguf.MODEL_TENSORS
    TENSOR_NAMES = _gguf.TENSOR_NAMES
    TokenType = _gguf.TokenType

__all__ = [
    "GGML_QUANT_SIZES",
    "GGML_QUANT_VERSION",
    "GGUF_DEFAULT_ALIGNMENT",
    "GGUF_MAGIC",
    "GGUF_VERSION",
    "MODEL_ARCH",
    "MODEL_ARCH_NAMES",
    "MODEL_TENSORS",
    "TENSOR_NAMES",
    "GGMLQuantizationType",
    "GGUFValueType",
    "Keys",
    "LlamaFileType",
    "TokenType",
]
