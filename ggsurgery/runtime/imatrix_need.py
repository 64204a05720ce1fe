"""Which types llama.cpp makes only with an importance matrix.

Its own rule applies to a tensor (llama-quant.cpp, tensor_requires_imatrix); a file type needs
a matrix if its mix holds such tensors. A test compares both with llama.cpp's dry run.
"""

from __future__ import annotations

#: Tensor types that always need one, `token_embd` and `output` apart.
_TENSOR_TYPES = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs"}

#: File types that need one, from large to small.
FILE_TYPES = (
    "IQ3_XS",
    "IQ3_XXS",
    "Q2_K_S",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
    "IQ1_M",
    "IQ1_S",
)

#: Of these, the ones whose base type alone needs none (their mix does).
_NOT_IF_PURE = {"IQ3_XS"}


def tensor_needs_imatrix(kind: str, ftype: str) -> bool:
    """Whether a layer's tensor of type `kind` (q4_k) in a file of type `ftype` needs one."""
    return kind in _TENSOR_TYPES or (kind, ftype) == ("q2_k", "Q2_K_S")


def file_needs_imatrix(ftype: str, *, pure: bool = False) -> bool:
    """Whether a file of type `ftype` (Q4_K_M) needs one."""
    return ftype in FILE_TYPES and not (pure and ftype in _NOT_IF_PURE)
