"""LoRA adapters in llama.cpp's GGUF format: pairs of small matrices beside the names of a model.

    general.type = adapter, adapter.type = lora, adapter.lora.alpha, general.architecture
    NAME.lora_a  [columns, rank]        NAME.lora_b  [rank, rows]       W + scale · α / rank · B A
    token_embd.weight: the two change places, lora_a [rank, rows], lora_b [rank, columns]

Shapes are in ggml's order. Stacks of experts have a third axis in both. An α of 0 leaves the
factor α / rank out. Facts: src/llama-adapter.cpp, tools/export-lora.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..files.atomic import atomic_path
from .constants import GGMLQuantizationType, GGUFValueType, Keys
from .header import read_header
from .types import Header, TensorInfo, Value
from .writer import TENSOR_ALIGNMENT, encode_header, padded

A, B = ".lora_a", ".lora_b"

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """The update of one tensor of the model."""

    name: str
    a: TensorInfo
    b: TensorInfo

    @property
    def rank(self) -> int:
        return self.b.shape[0]

    @property
    def flipped(self) -> bool:
        """Whether the two matrices have changed places, as for token embeddings."""
        return self.name.endswith("token_embd.weight")

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of the tensor that it fits, None if the two do not fit each other."""
        a, b = _matrix(self.a.shape), _matrix(self.b.shape)
        if a is None or b is None or a[2:] != b[2:]:
            return None
        if self.flipped:
            return (b[1], a[1]) if a[0] == b[0] and len(a) == 2 else None
        return (a[0], b[1], *a[2:]) if a[1] == b[0] else None


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's header, read and checked.

    Attributes:
        alpha: 0 where the file has none.
        unused: norm vectors, which llama.cpp does not apply.
    """

    header: Header
    alpha: float
    pairs: Mapping[str, Pair]
    unused: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.header.path

    def factor(self, pair: Pair, scale: float) -> float:
        """The factor of B A."""
        return scale * self.alpha / pair.rank if self.alpha else scale


def read_adapter(path: str | Path) -> Adapter:
    """Read the header of an adapter.

    Raises:
        FormatError: it is not a LoRA adapter, one of two matrices is missing, a name has another
            ending, or the adapter works from some tokens on only.
    """
    header = read_header(path)
    for key, wanted in ((Keys.General.TYPE, "adapter"), (Keys.Adapter.TYPE, "lora")):
        if (found := header.get(key)) != wanted:
            raise FormatError(
                "not a LoRA adapter", file=path, tensor=key, expected=wanted, found=_short(found)
            )
    if header.get(Keys.Adapter.ALORA_INVOCATION_TOKENS):
        raise FormatError(
            "an adapter that works behind its invocation tokens only cannot become weights",
            file=path,
            tensor=Keys.Adapter.ALORA_INVOCATION_TOKENS,
            hint="llama.cpp applies it at run time with --lora.",
        )
    alpha = header.get(Keys.Adapter.LORA_ALPHA, 0.0)
    if not isinstance(alpha, float):
        raise FormatError(
            "alpha is not a number of type float32",
            file=path,
            tensor=Keys.Adapter.LORA_ALPHA,
            found=_short(alpha),
        )
    halves: dict[str, dict[str, TensorInfo]] = {}
    unused = []
    for tensor in header.tensors:
        end = tensor.name[-len(A) :]
        if end in (A, B):
            halves.setdefault(tensor.name[: -len(A)], {})[end] = tensor
        elif tensor.name.endswith("_norm.weight"):
            unused.append(tensor.name)
        else:
            raise FormatError(
                "a tensor of an adapter has another ending",
                file=path,
                tensor=tensor.name,
                expected=f"NAME{A} or NAME{B}",
            )
    for name, half in halves.items():
        if len(half) < 2:
            missing = (A if A not in half else B)[1:]
            raise FormatError(
                "the adapter lacks one of the two matrices",
                file=path,
                tensor=name,
                expected=f"{name}.{missing}",
            )
    pairs = {name: Pair(name, half[A], half[B]) for name, half in halves.items()}
    if not pairs:
        raise FormatError("the adapter changes no tensor", file=path, expected=f"NAME{A}, NAME{B}")
    return Adapter(header, alpha, pairs, tuple(unused))


def write_adapter(
    path: str | Path,
    architecture: str,
    updates: Mapping[str, tuple[F32, F32]],
    *,
    alpha: float,
    name: str,
    inputs: Sequence[Path] = (),
    force: bool = False,
) -> None:
    """Write an adapter that llama.cpp loads, in float32.

    Args:
        updates: A [rank, columns] and B [rows, rank] by the name of the model's tensor.
        inputs: files whose tighter rights it gets.

    Raises:
        OutputError: the file exists (without `force`) or cannot be written.
    """
    text, number = GGUFValueType.STRING, GGUFValueType.FLOAT32
    metadata = {
        Keys.General.ARCHITECTURE: Value.of(architecture, text),
        Keys.General.TYPE: Value.of("adapter", text),
        Keys.General.NAME: Value.of(name, text),
        Keys.Adapter.TYPE: Value.of("lora", text),
        Keys.Adapter.LORA_ALPHA: Value.of(alpha, number),
    }
    arrays = {
        tensor + end: np.ascontiguousarray(half, "<f4")
        for tensor, pair in updates.items()
        for end, half in zip((A, B), pair, strict=True)
    }
    infos, offset = [], 0
    for tensor, array in arrays.items():
        kind = int(GGMLQuantizationType.F32)
        infos.append(TensorInfo(tensor, array.shape[::-1], kind, offset, array.nbytes))
        offset += padded(array.nbytes, TENSOR_ALIGNMENT)
    with (
        atomic_path(Path(path), inputs=inputs, force=force) as temporary,
        temporary.open("wb") as file,
    ):
        file.write(encode_header(metadata, infos, "<", TENSOR_ALIGNMENT))
        for info, array in zip(infos, arrays.values(), strict=True):
            file.write(array.tobytes().ljust(padded(info.nbytes, TENSOR_ALIGNMENT), b"\0"))


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape with two axes at least, without trailing ones behind them; None above three."""
    full = [*shape, *[1] * (2 - len(shape))]
    while len(full) > 2 and full[-1] == 1:
        full.pop()
    return tuple(full) if len(full) <= 3 else None


def _short(value: object) -> str:
    return "none" if value is None else str(value)[:60]
