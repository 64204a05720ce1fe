"""Read a pipeline recipe: YAML whose every key is known, errors with their line.

    name: SmolLM2-135M-cut
    source:     {file: in.gguf}                       # or package: and file: within it
    operations: [{delete: {layer: "10"}}]             # as `ggsurgery apply` reads them
    laco:       {text: calibration.txt, highest: 28}  # instead of operations: find them
    header:     {general.license: apache-2.0}
    template:   {family: chatml}
    imatrix:    {text: calibration.txt, chunks: 32}
    quantize:   {types: [Q8_0, Q4_K_M]}
    evaluate:   {perplexity: {text: test.txt, ctx: 512}, kl: {text: test.txt}}
    release:    {base_model: org/name}

Every section but `source` may be missing. Paths count from the recipe's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import FormatError, did_you_mean
from ..files.text import MAX_SMALL, read_text
from ..plan.recipe import Recipe, Step
from ..plan.yamlfile import load

#: What each key holds: a type, a list of one type, or the keys below it. `Any` is not looked into.
Schema = Mapping[str, Any]

_TEXT: Schema = {"text": str, "ctx": int, "chunks": int, "parse_special": bool}
_LACO: Schema = {
    "text": str,
    "texts": int,
    "ctx": int,
    "parse_special": bool,
    "merge_layers": int,
    "lowest": int,
    "highest": int,
    "interval": int,
    "threshold": float,
    "max_compression": float,
    "variant": str,
    "factor": float,
}
SCHEMA: Schema = {
    "name": str,
    "description": str,
    "source": {"file": str, "package": str, "sha256": str, "note": str},
    "operations": Any,
    "options": Any,
    "laco": _LACO,
    "header": Any,
    "template": {"family": str, "file": str},
    "imatrix": _TEXT,
    "quantize": {
        "types": [str],
        "allow_requantize": bool,
        "pure": bool,
        "leave_output": bool,
        "pin": bool,
        "tensor_types": [str],
    },
    "evaluate": {
        "perplexity": _TEXT,
        "kl": _TEXT,
        "choices": [
            {
                "data": str,
                "shots": int,
                "from": str,
                "style": str,
                "limit": int,
                "seed": int,
                "ctx": int,
            }
        ],
        "bench": {
            "tasks": [str],
            "data": str,
            "include": str,
            "limit": int,
            "seed": int,
            "shots": int,
            "chat": bool,
            "ctx": int,
        },
        "suite": {"length": str, "limit": int, "controls": bool, "random": int, "seed": int},
        "say": {"prompt": str, "max_tokens": int},
    },
    "release": {
        "family": str,
        "base_model": str,
        "license": str,
        "recommended": str,
        "system": str,
        "languages": [str],
        "tags": [str],
        "results": [str],
        "parameters": Any,
        "memory": bool,
        "repo": str,
        "relation": str,
        "quantized_by": str,
        "check_tokenizer": bool,
    },
}
_REQUIRED = {
    "imatrix": ("text",),
    "laco": ("text",),
    "quantize": ("types",),
    "perplexity": ("text",),
    "kl": ("text",),
    "choices": ("data",),
    "bench": ("tasks",),
    "say": ("prompt",),
}

#: The least that the commands take of these numbers; of the others 1.
_LEAST = {
    "shots": 0,
    "random": 0,
    "seed": 0,
    "imatrix.ctx": 16,
    "evaluate.bench.ctx": 64,
    "evaluate.choices.ctx": 8,
    "ctx": 4,
}

_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Document:
    """A recipe that was read and checked.

    `sections` holds the parsed YAML; `folder` is where its paths count from.
    """

    path: Path
    sections: Mapping[str, Any]
    recipe: Recipe

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def name(self) -> str:
        """The new model's name: `name:` or that of the recipe file."""
        return str(self.sections.get("name") or self.path.stem)

    def section(self, name: str) -> dict[str, Any] | None:
        """A section, None where the recipe has none."""
        found = self.sections.get(name)
        return None if found is None else dict(found)

    def file(self, name: str) -> Path:
        """A path named in the recipe.

        Raises:
            FormatError: there is no such file.
        """
        path = self.folder / name
        if not path.is_file():
            raise FormatError(f"no file {name}", file=self.path, expected=f"a file at {path}")
        return path

    def directory(self, name: str) -> Path:
        """A folder named in the recipe.

        Raises:
            FormatError: there is no such folder.
        """
        path = self.folder / name
        if not path.is_dir():
            raise FormatError(f"no folder {name}", file=self.path, expected=f"a folder at {path}")
        return path


def load_document(path: str | Path) -> Document:
    """Read a pipeline recipe.

    Raises:
        FormatError: missing file, no YAML, an unknown key (with line and nearest key), a value
            of the wrong type, operations that are none.
    """
    path = Path(path)
    sections, node = load(path)
    if not isinstance(node, yaml.MappingNode) or not isinstance(sections, dict):
        raise FormatError("not a recipe", file=path, expected="name:, source:, operations: …")
    _check(node, SCHEMA, "", path)
    if sections.get("laco") and sections.get("operations"):
        raise FormatError(
            "a recipe has either operations or laco, which finds them",
            file=path,
            hint="Cut first with one recipe, then run LaCo on its result with another.",
        )
    surgical = {k: sections[k] for k in ("name", "operations", "options") if k in sections}
    recipe = Recipe.from_json(surgical, path)
    recipe = Recipe((*recipe.steps, *_header_steps(sections, path)), recipe.name, recipe.options)
    return Document(path, sections, recipe)


def _check(node: yaml.MappingNode, schema: Schema, where: str, path: Path) -> None:
    for key_node, value in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key not in schema:
            raise FormatError(
                f"line {line}: unknown key {where}{key}",
                file=path,
                expected=f"one of {', '.join(schema)}",
                hint=_nearest(key, schema),
            )
        _check_value(value, schema[key], f"{where}{key}", path)
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        below = schema[key][0] if isinstance(schema[key], list) else schema[key]
        for item in items if isinstance(below, Mapping) else ():
            _check(item, below, f"{where}{key}.", path)
            given = {str(k.value) for k, _ in item.value}
            for needed in _REQUIRED.get(key, ()):
                if needed not in given:
                    raise FormatError(f"line {line}: {where}{key} needs {needed}", file=path)


def _nearest(key: str, schema: Schema) -> str | None:
    """The known key that was meant, one of this section's or a section of its own."""
    if hint := did_you_mean(key, schema):
        return hint
    hint = did_you_mean(key, SCHEMA)
    return hint and f"{hint} It is a section of its own, at the left margin."


def _check_value(value: yaml.Node, wanted: Any, where: str, path: Path) -> None:
    line = value.start_mark.line + 1
    tags = {str: ("str",), int: ("int",), float: ("float", "int"), bool: ("bool",)}
    if wanted is Any:
        return
    if isinstance(wanted, Mapping):
        if not isinstance(value, yaml.MappingNode):
            keys = ", ".join(wanted)
            raise FormatError(f"line {line}: {where} holds keys", file=path, expected=keys)
    elif isinstance(wanted, list):
        if not isinstance(value, yaml.SequenceNode):
            raise FormatError(f"line {line}: {where} is a list", file=path, expected="[a, b, …]")
        for item in value.value:
            _check_value(item, wanted[0], where, path)
    elif value.tag.removeprefix("tag:yaml.org,2002:") not in tags[wanted]:
        raise FormatError(
            f"line {line}: {where}",
            file=path,
            expected=_NAMES[wanted],
            found=repr(getattr(value, "value", value.tag))[:60],
        )
    elif wanted is int and not where.startswith("laco."):  # LaCo knows its own bounds
        least = _LEAST.get(where, _LEAST.get(where.rpartition(".")[2], 1))
        number = int(yaml.safe_load(str(value.value)))
        if number < least:
            raise FormatError(
                f"line {line}: {where}", file=path, expected=f"at least {least}", found=number
            )


def _header_steps(sections: Mapping[str, Any], path: Path) -> list[Step]:
    """Header edits and the chat template, as the operations that they are."""
    header = sections.get("header") or {}
    if not isinstance(header, dict):
        raise FormatError("header holds keys", file=path, expected="general.license: mit")
    steps = []
    for key, value in header.items():
        try:
            json.dumps(value)  # it will stand in the file's recipe
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(
                f"header.{key} is no plain value",
                file=path,
                found=str(error),
                expected="numbers, text, lists; put dates into quotes",
            ) from None
        if value is None:
            steps.append(Step("unset", (("key", str(key)),)))
        else:
            steps.append(Step("set", (("key", str(key)), ("value", value))))
    template = sections.get("template")
    if template:
        if ("family" in template) == ("file" in template):
            raise FormatError("template needs either family or file", file=path)
        source = _template(template, path)
        steps.append(
            Step("set", (("key", "tokenizer.chat_template"), ("value", source), ("type", "string")))
        )
    return steps


def _template(section: Mapping[str, Any], path: Path) -> str:
    from ..chat.families import family
    from ..chat.render import compile_template

    if "family" in section:
        return family(str(section["family"])).jinja
    file = path.parent / str(section["file"])
    source = read_text(file, MAX_SMALL)
    compile_template(source)
    return source
