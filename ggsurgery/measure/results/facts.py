"""Facts about a model file for tables, counted from its header."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...files.fields import Fields, text, whole
from ...ggufio.constants import LlamaFileType
from ...ggufio.reader import Source


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model file: counted from its header, never scaled.

    Args:
        name: short name for tables.
        file: as given; bytes: of the whole file.
        layers, parameters: None if the results do not state them.
        quantization: llama.cpp's name of the file type (`Q4_K_M`), None where the file has none.
        checksum: distinguishes this file from others of the same name and size (`Source.checksum`).
    """

    name: str
    file: str
    bytes: int | None = None
    layers: int | None = None
    parameters: int | None = None
    quantization: str | None = None
    checksum: str | None = None

    @classmethod
    def from_json(cls, data: Any) -> ModelFacts:
        """The inverse of `asdict`.

        Raises:
            FieldError: a field is missing or of the wrong type.
        """
        fields = Fields(data)
        return cls(fields.get("name", text), fields.get("file", text), **read_facts(fields.data))

    @property
    def bits_per_weight(self) -> float | None:
        if not self.bytes or not self.parameters:
            return None
        return 8 * self.bytes / self.parameters

    @property
    def identity(self) -> str:
        """Size and checksum in words."""
        size = "unknown size" if self.bytes is None else f"{self.bytes:,} bytes"
        return f"{size}, {self.checksum or 'no checksum'}"

    def may_be(self, other: ModelFacts) -> bool:
        """Whether nothing that both know speaks against their being one file."""
        known = ((self.bytes, other.bytes), (self.checksum, other.checksum))
        return all(a == b for a, b in known if None not in (a, b))

    def filled_from(self, other: ModelFacts) -> ModelFacts:
        """A copy whose missing facts are taken from the other."""
        gaps = {k: getattr(other, k) for k, v in asdict(self).items() if v is None}
        return replace(self, **gaps)


def read_facts(data: Any) -> dict[str, Any]:
    """The facts about a file in results, besides its name; missing ones are None.

    Raises:
        FieldError: an entry is of the wrong type.
    """
    fields = Fields(data)
    return {
        **{k: fields.get_or(k, whole, None) for k in ("bytes", "layers", "parameters")},
        **{k: fields.get_or(k, text, None) for k in ("quantization", "checksum")},
    }


def model_facts(
    path: str | Path, name: str | None = None, source: Source | None = None
) -> ModelFacts:
    """Facts for a table about a model, from its header; `source` is the model, if it is open."""
    with nullcontext(source) if source is not None else Source(path) as opened:
        header, checksum = opened.header, opened.checksum()
    kind = header.get("general.file_type")
    try:
        quantization = LlamaFileType(kind).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        quantization = None
    return ModelFacts(
        name or Path(path).stem,
        str(path),
        sum(header.file_size),
        header.n_layers,
        header.n_parameters,
        quantization,
        checksum,
    )
