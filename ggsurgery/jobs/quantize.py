"""Quantize a model: one file type, several, or a mix for a size."""

from __future__ import annotations

from typing import Annotated

from .request import Settings, Texts, option


class QuantizeSettings(Settings, frozen=True, kw_only=True):
    """A recipe's section `quantize`."""

    types: Annotated[
        Texts, option("Several file types, each a file of its own.", metavar="A,B,…", joined=True)
    ]
    allow_requantize: Annotated[bool, option("Quantize tensors that are quantized already.")] = True
    pure: Annotated[bool, option("Every tensor in the base type, no mix.")] = False
    leave_output: Annotated[bool, option("Leave output.weight as it is.")] = False
    pin: Annotated[bool, option("Types as the uncut model would have had them.")] = False
    tensor_types: Annotated[
        Texts,
        option(
            "Tensors whose name matches get this type; the first match counts.",
            metavar="REGEX=TYPE",
            flag="tensor-type",
        ),
    ] = ()
