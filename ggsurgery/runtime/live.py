"""A loaded model whose weights can be changed: candidates without a file.

    with LiveModel.open("model.gguf") as model:
        model.set("blk.3.ffn_down.weight", zeros)     # bytes in the tensor's own type
        logits = model.decode(tokens)
        model.restore()

llama.cpp has no call that finds a tensor by its name. The graph has: every node lists the
tensors it reads, so the first decode collects all weights that the model uses.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ..errors import EngineError
from . import binding, log
from .engine import Engine
from .refusal import refusal

#: Reads the original bytes of a tensor by name, to put them back.
Original = Callable[[str], memoryview | bytes]


#: Name suffixes of weights, and of the tensors stored beside them.
_ENDS = (b".weight", b".bias", b".scale")


class _Weights:
    """A hook that reads nothing, but notes the named leaves of the graph by their address."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def wants(self, node: binding.Tensor) -> bool:
        for source in node.src:
            if source:
                tensor = source.contents
                if tensor.op == 0 and tensor.data and tensor.name.endswith(_ENDS):
                    self.found.setdefault(tensor.name.decode("utf-8", "replace"), source)
        return False

    def read(self, node: binding.Tensor) -> None:  # never wanted, so never called
        raise AssertionError(node.name)


class LiveModel(Engine):
    """An `Engine` that owns a private, writable copy of the weights.

    The file is read, not mapped: a mapped file's pages are read-only. Memory is one model.
    """

    _tensors: dict[str, Any]
    _changed: set[str]

    def _load(self) -> Any:
        llama = self._llama
        parameters = llama.llama_model_default_params()
        parameters.use_extra_bufts = False  # repacked weights have another layout in memory
        parameters.n_gpu_layers = 0
        parameters.load_mode = llama.LLAMA_LOAD_MODE_NONE
        with log.capture() as lines:
            model = llama.llama_model_load_from_file(os.fsencode(self.path), parameters)
        if not model:
            raise refusal(self.path, "it", lines.errors())
        return model

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> Self:
        """Load a model for changing; options as of `Engine.open`.

        Raises:
            EngineError: llama.cpp cannot load the file.
        """
        engine = super().open(path, **{**options, "extra_buffers": False})
        assert isinstance(engine, cls)
        engine._tensors = engine._collect()
        engine._changed = set()
        return engine

    def _collect(self) -> dict[str, Any]:
        weights = _Weights()
        self.set_hook(weights)
        self.decode([self.bos or 0], logits="last")
        self.set_hook(None)
        self.reset()
        return weights.found

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the tensors that decoding reads, and that can be set."""
        return frozenset(self._tensors)

    @property
    def changed(self) -> frozenset[str]:
        """Names of the tensors that differ from the file."""
        return frozenset(self._changed)

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor as it lies in memory, in its own type."""
        return int(binding.ggml().ggml_nbytes(self._tensor(name)))

    def get(self, name: str) -> bytes:
        """The bytes of a tensor as they are now."""
        pointer, size = self._tensor(name), self.nbytes(name)
        buffer = ctypes.create_string_buffer(size)
        binding.ggml().ggml_backend_tensor_get(pointer, buffer, 0, size)
        return buffer.raw

    def set(self, name: str, data: bytes | memoryview) -> None:
        """Overwrite a tensor. The KV cache is not cleared: call `reset`.

        Args:
            data: exactly `nbytes(name)` bytes, encoded in the tensor's own type.

        Raises:
            EngineError: the model does not use such a tensor, or the size is another.
        """
        pointer, view = self._tensor(name), memoryview(data).cast("B")
        if view.nbytes != self.nbytes(name):
            raise EngineError(
                "wrong number of bytes for this tensor",
                file=self.path,
                tensor=name,
                expected=self.nbytes(name),
                found=view.nbytes,
            )
        if view.readonly:
            raw: Any = ctypes.c_char_p(bytes(view))
        else:
            raw = (ctypes.c_char * view.nbytes).from_buffer(view)
        set_tensor = binding.ggml().ggml_backend_tensor_set
        set_tensor.argtypes = [
            ctypes.POINTER(binding.Tensor),
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_size_t,
        ]
        set_tensor.restype = None
        set_tensor(pointer, ctypes.cast(raw, ctypes.c_void_p), 0, view.nbytes)
        self._changed.add(name)

    def restore(self, original: Original) -> None:
        """Put the file's bytes back into every changed tensor."""
        for name in sorted(self._changed):
            self.set(name, original(name))
        self._changed.clear()

    def _tensor(self, name: str) -> Any:
        found = self._tensors.get(name)
        if found is None:
            raise EngineError("the model uses no such tensor", file=self.path, tensor=name)
        return found
