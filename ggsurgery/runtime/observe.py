"""See the nodes of llama.cpp's graph while it is computed, through `cb_eval`.

The scheduler asks for every node whether it is wanted (`ask`), computes up to a wanted one,
and calls again with its data in place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import binding

FLOAT_TYPES = {0: np.float32, 1: np.float16}  # GGML_TYPE_F32, F16
F32 = NDArray[np.float32]


class Hook(Protocol):
    """Decides on nodes and reads them; `node` is a `binding.Tensor`."""

    def wants(self, node: binding.Tensor) -> bool: ...
    def read(self, node: binding.Tensor) -> None: ...


class Callback:
    """A `cb_eval` that survives errors: they are kept and raised after the decode."""

    def __init__(self) -> None:
        self.hook: Hook | None = None
        self.error: BaseException | None = None
        pointer = ctypes.POINTER(binding.Tensor)

        def evaluate(node: int, ask: bool, _: Any) -> bool:
            hook = self.hook
            if hook is None or self.error is not None:
                return not ask  # False to "do you want it?", True to "go on?"
            try:
                tensor = ctypes.cast(node, pointer).contents
                if ask:
                    return hook.wants(tensor)
                hook.read(tensor)
                return True
            except BaseException as error:  # noqa: BLE001 - must not cross the C frames
                self.error = error
                return False

        self.function = binding.llama().ggml_backend_sched_eval_callback(evaluate)

    def raise_error(self) -> None:
        """Raise what went wrong inside the last decode, if anything did."""
        error, self.error = self.error, None
        if error is not None:
            raise error


def read_floats(node: binding.Tensor) -> F32:
    """A node's values as float32 [tokens, width]; dimensions above the second are flattened.

    Raises:
        TypeError: the node holds neither F32 nor F16.
    """
    kind = FLOAT_TYPES.get(node.type)
    if kind is None:
        raise TypeError(f"graph node {node.name.decode()} holds no floats (type {node.type})")
    raw = read_bytes(node)
    shape = tuple(node.ne)[::-1]
    strides = tuple(node.nb)[::-1]
    view: NDArray[Any] = np.ndarray(shape, kind, raw, strides=strides)
    return np.ascontiguousarray(view, np.float32).reshape(-1, shape[-1])


def read_bytes(node: binding.Tensor) -> bytearray:
    """The bytes that a node spans, from wherever its backend keeps them."""
    base = binding.ggml()
    size = base.ggml_nbytes(ctypes.byref(node))
    raw = bytearray(size)
    target = (ctypes.c_char * size).from_buffer(raw)
    base.ggml_backend_tensor_get(ctypes.byref(node), target, 0, size)
    return raw


class Recorder:
    """Keeps the nodes with chosen names; `take` hands them out, decode by decode.

    Args:
        chosen: names such as `l_out-3`, `ffn_inp-3`, `result_norm`, or a predicate on names.
    """

    def __init__(self, chosen: Iterable[str] | Callable[[str], bool]) -> None:
        if callable(chosen):
            self.chosen = chosen
        else:
            names = frozenset(chosen)
            self.chosen = names.__contains__
        self.parts: dict[str, list[F32]] = {}

    def wants(self, node: binding.Tensor) -> bool:
        return self.chosen(node.name.decode("utf-8", "replace"))

    def read(self, node: binding.Tensor) -> None:
        name = node.name.decode("utf-8", "replace")
        self.parts.setdefault(name, []).append(read_floats(node))

    def take(self) -> dict[str, F32]:
        """Everything since the last call, the pieces of one decode joined."""
        parts, self.parts = self.parts, {}
        return {n: p[0] if len(p) == 1 else np.concatenate(p) for n, p in parts.items()}


class NonFinite:
    """Remembers the first node of floats that holds NaN or infinity.

    Masks are made of -inf on purpose and node types other than F32 and F16 hold no floats:
    both are passed over.
    """

    def __init__(self) -> None:
        self.first: str | None = None

    def wants(self, node: binding.Tensor) -> bool:
        if self.first is not None or node.type not in FLOAT_TYPES:
            return False
        name = node.name.decode("utf-8", "replace")
        return "mask" not in name and "cache" not in name and " (" not in name

    def read(self, node: binding.Tensor) -> None:
        if self.first is None and not np.isfinite(read_floats(node)).all():
            self.first = node.name.decode("utf-8", "replace")
