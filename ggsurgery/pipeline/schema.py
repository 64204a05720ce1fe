"""The JSON schema of recipes, for editors and for the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from ..jobs.faults import plain_type
from ..jobs.request import Settings, field_metadata
from .sections import RecipeFile


def recipe_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of what `load_document` reads.

    Earlier names of keys are marked as deprecated.
    """
    (found,), parts = msgspec.json.schema_components(
        [RecipeFile], schema_hook=_path, ref_template="#/$defs/{name}"
    )
    for kind in section_types(RecipeFile):
        properties = parts[kind.__name__]["properties"]
        parts[kind.__name__]["properties"] = _without_nulls(properties)
        for field in msgspec.structs.fields(kind):
            described = parts[kind.__name__]["properties"]
            for old in field_metadata(kind, field.name).get("old_keys", ()):
                described[old] = described[field.encode_name] | {"deprecated": True}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of ggsurgery run",
        **found,
        "$defs": parts,
    }


def section_types(kind: type[Settings]) -> list[type[Settings]]:
    """The types of a section and of its subsections, each once."""
    found = [kind]
    for field in msgspec.structs.fields(kind):
        below = plain_type(field.type)
        below = get_args(below)[0] if get_origin(below) is tuple else below
        if isinstance(below, type) and issubclass(below, Settings):
            found += [k for k in section_types(below) if k not in found]
    return found


def _path(kind: type) -> dict[str, Any]:
    assert kind is Path
    return {"type": "string"}


def _without_nulls(value: Any) -> Any:
    """A schema in which "not given" means that the key is absent: recipes take no null."""
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    if not isinstance(value, dict):
        return list(value) if isinstance(value, tuple) else value
    # a section's default consists of its keys' defaults
    kept = {
        k: _without_nulls(v)
        for k, v in value.items()
        if not (k == "default" and (v is None or isinstance(v, dict)))
    }
    others = [v for v in kept.get("anyOf", ()) if v != {"type": "null"}]
    if "anyOf" in kept and len(others) == 1:
        del kept["anyOf"]
        return others[0] | kept
    return kept
