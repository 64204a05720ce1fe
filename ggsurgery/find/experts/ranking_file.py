"""Rankings of experts as JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...arch.experts import mixture
from ...errors import FormatError, PlanError
from ...files.fields import FieldError, Fields, finite, list_of, mapping, read_json, whole
from ...ggufio.types import Header
from ...measure.results.facts import ModelFacts
from .ranking import Ranking, TextSums

KIND = "experts"


def read_ranking(path: Path, header: Header) -> tuple[Ranking, ModelFacts]:
    """A ranking of a model with as many experts as this one, and the model it was measured on.

    Raises:
        FormatError: not a ranking, or a damaged one.
        PlanError: of a model with another number of experts or other layers.
    """
    document = read_json(path)
    try:
        fields = Fields(document)
        if fields.data.get("ggsurgery") != KIND:
            raise FormatError(
                "not a ranking of experts",
                file=path,
                expected='a file that `ggsurgery experts rank -o` wrote ("ggsurgery": "experts")',
            )
        facts = fields.get("model", ModelFacts.from_json)
        count, rows = fields.get("experts", whole), fields.get("layers", list_of(Fields))
        layers = tuple(row.get("layer", whole) for row in rows)
        tokens = fields.get("tokens", mapping)
        found = mixture(header)
        if count != found.n_experts or not set(layers) <= set(found.layers):
            raise PlanError(
                "the ranking is of another model",
                file=path,
                expected=f"{found.n_experts} experts in layers of {header.path.name}",
                found=f"{count} experts in {len(layers)} layers of {facts.name}",
                hint="Rank this model: ggsurgery experts rank FILE --text TEXT -o RANKING.json",
            )
        texts = tuple(
            TextSums(name, whole(n), *_arrays(rows, name, count)) for name, n in tokens.items()
        )
        largest = np.array([_row(row, "largest", count) for row in rows])
    except FieldError as error:
        raise error.at(file=path) from None
    if not texts or not rows:
        raise FormatError("the ranking is empty", file=path)
    return Ranking(header.path, found, layers, texts, largest), facts


def _arrays(rows: tuple[Fields, ...], name: str, count: int) -> list[Any]:
    parts: Mapping[str, list[list[float]]] = {"counts": [], "saliency": [], "norms": []}
    for row in rows:
        one = Fields(row.get("texts", mapping)).get(name, Fields)
        for part, values in parts.items():
            values.append(_row(one, part, count))
    return [np.array(values) for values in parts.values()]


def _row(fields: Fields, key: str, count: int) -> list[float]:
    values = fields.get(key, list_of(finite))
    if len(values) != count or min(values, default=0) < 0:
        raise FieldError(f"{count} numbers of 0 or more", f"{len(values)} numbers", key)
    return list(values)
