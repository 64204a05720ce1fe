"""The purpose of a GGUF file: a language model, or a file that accompanies one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import FormatError

if TYPE_CHECKING:
    from .types import Header


@dataclass(frozen=True, slots=True)
class Purpose:
    """The kind of a file, and what to do with it instead of surgery; empty for `model`."""

    name: str
    advice: str = ""


MODEL = Purpose("a language model")
MMPROJ = Purpose(
    "an image or audio encoder (mmproj)",
    "Operate on the language model that it belongs to; llama.cpp takes this file as --mmproj.",
)
LORA = Purpose(
    "a LoRA adapter",
    "Merge it into its base model with `ggsurgery lora merge`, then operate on the result.",
)
CONTROL_VECTOR = Purpose(
    "a control vector", "llama.cpp applies it to a model with --control-vector."
)
IMATRIX = Purpose(
    "an importance matrix", "Pass it as `imatrix`; `ggsurgery imatrix show` prints what it holds."
)
VOCABULARY = Purpose("a vocabulary without weights", "Name the model's own file.")
OTHER = Purpose(
    "a GGUF file of another kind", "`ggsurgery inspect` and `ggsurgery meta` show what it holds."
)


def purpose(header: Header) -> Purpose:
    """The file's purpose, from its type, its architecture and its entries."""
    kind, architecture = header.get("general.type"), header.architecture
    entries = header.metadata
    if kind == "imatrix" or "imatrix.datasets" in entries or "imatrix.chunk_count" in entries:
        return IMATRIX
    if kind == "adapter" or "adapter.type" in entries:
        return LORA
    if architecture == "controlvector":
        return CONTROL_VECTOR
    if kind == "mmproj" or architecture == "clip":
        return MMPROJ
    if not header.tensors and "tokenizer.ggml.model" in entries:
        return VOCABULARY
    layered = any(t.layer is not None for t in header.tensors)
    if layered or (architecture and f"{architecture}.block_count" in entries):
        return MODEL
    return OTHER


def not_a_model(header: Header) -> FormatError | None:
    """The error for a file that goes with a language model and is none itself."""
    found = purpose(header)
    if found in (MODEL, OTHER):
        return None
    return FormatError(
        f"this file is {found.name}, not a language model", file=header.path, hint=found.advice
    )
