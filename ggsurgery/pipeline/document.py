"""Read a pipeline recipe: YAML whose every key is known, errors with their line.

    name: SmolLM2-135M-cut
    source:     {file: in.gguf}                       # or package: and file: within it
    operations: [{delete: {layer: "10"}}]             # as `ggsurgery apply` reads them
    laco:       {text: calibration.txt, highest: 28}  # instead of operations: find them
    prune-width: {text: calibration.txt, ffn: 0.22}   # channels leave before the operations
    heal:       {text: calibration.txt}               # refit the cut by least squares
    distil:     {text: calibration.txt}               # train it towards the source
    header:     {general.license: apache-2.0}
    template:   {family: chatml}
    imatrix:    {text: calibration.txt, windows: 32}
    quantize:   {types: [Q8_0, Q4_K_M]}
    evaluate:   {perplexity: {text: test.txt, ctx: 512}, kl: {text: test.txt}}
    release:    {base_model: org/name}

Every section but `source` may be missing. Paths count from the recipe's folder. `sections`
holds the types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import yaml

from ..errors import FormatError, RequestError, did_you_mean, rename
from ..files.text import MAX_SMALL, read_text
from ..jobs.faults import Fault, fault_of, plain_type, type_at
from ..jobs.request import Settings, field_metadata, path_hook
from ..plan.recipe import Recipe, Step
from ..plan.yamlfile import load
from .sections import RecipeFile, Template


@dataclass(frozen=True)
class Document:
    """A recipe that was read and checked.

    `file` holds its sections; `raw` the parsed YAML, which keys the steps of a run.
    """

    path: Path
    raw: Mapping[str, Any]
    file: RecipeFile
    recipe: Recipe

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def name(self) -> str:
        """The new model's name: `name:` or the recipe file's name."""
        return self.file.name or self.path.stem

    def section(self, *names: str) -> dict[str, Any]:
        """A section as it was written, empty if the recipe has none."""
        found: Any = self.raw
        for name in names:
            found = found.get(name) or {}
        return dict(found)

    def check_files(self, settings: Settings) -> None:
        """Refuse paths of a section that lead nowhere.

        Raises:
            FormatError: no such file or folder.
        """
        for field in msgspec.structs.fields(type(settings)):
            role = field_metadata(type(settings), field.name).get("role")
            value = getattr(settings, field.name)
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, Path):
                    self._check_path(path, folder=role == "folder")

    def _check_path(self, path: Path, *, folder: bool) -> None:
        what, good = ("folder", path.is_dir()) if folder else ("file", path.is_file())
        if not good:
            name = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
            raise FormatError(f"no {what} {name}", file=self.path, expected=f"a {what} at {path}")


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
    file = _convert(sections, node, path)
    if sections.get("laco") and sections.get("operations"):
        raise FormatError(
            "a recipe has either operations or laco, which finds them",
            file=path,
            hint="Cut first with one recipe, then run LaCo on its result with another.",
        )
    surgical = {k: sections[k] for k in ("name", "operations", "options") if k in sections}
    recipe = Recipe.from_json(surgical, path)
    recipe = Recipe(
        (*recipe.steps, *_header_steps(sections, file.template, path)), recipe.name, recipe.options
    )
    return Document(path, sections, file, recipe)


def _convert(raw: Mapping[Any, Any], node: yaml.MappingNode, path: Path) -> RecipeFile:
    """The document as its types.

    Raises:
        FormatError: names the line, the key, what was expected, and the nearest known key.
    """
    for key, line in _nulls(node, RecipeFile):
        raise FormatError(f"line {line}: {key} has no value", file=path)
    try:
        return msgspec.convert(
            _renamed(raw, RecipeFile, path), RecipeFile, dec_hook=path_hook(path.parent)
        )
    except msgspec.ValidationError as error:
        fault = fault_of(error, RecipeFile)
        if isinstance(error.__cause__, RequestError):
            where = fault.name
            names = names_of(type_at(RecipeFile, fault.path), where)
            text = str(error.__cause__.reworded(lambda text: rename(text, names)))
            raise FormatError(text, file=path) from None
        raise _error(fault, node, path) from None


def names_of(settings: type[Settings], where: str) -> dict[str, str]:
    """The recipe's names of a section's fields: `evaluate.kl.ctx`."""
    return {f.name: f"{where}.{f.encode_name}" for f in msgspec.structs.fields(settings)}


def _error(fault: Fault, tree: yaml.MappingNode, path: Path) -> FormatError:
    within = fault.path if fault.kind == "wrong" else fault.path[:-1]
    line, value, name = _find(tree, within)
    if fault.kind == "missing":
        return FormatError(f"line {line}: {name} needs {fault.path[-1]}", file=path)
    if fault.kind == "unknown":
        key = str(fault.path[-1])
        line = next(k.start_mark.line + 1 for k, _ in value.value if k.value == key)
        return FormatError(
            f"line {line}: unknown key {f'{name}.' if name else ''}{key}",
            file=path,
            expected=fault.expected,
            hint=_nearest(key, fault.known),
        )
    wanted = type_at(RecipeFile, fault.path)
    if isinstance(wanted, type) and issubclass(wanted, Settings):
        keys = ", ".join(f.encode_name for f in msgspec.structs.fields(wanted))
        return FormatError(f"line {line}: {name} holds keys", file=path, expected=keys)
    if get_origin(wanted) is tuple and not isinstance(value, yaml.SequenceNode):
        return FormatError(f"line {line}: {name} is a list", file=path, expected="[a, b, …]")
    found = getattr(value, "value", value.tag)
    shown = found if fault.bound else repr(found)[:60]
    return FormatError(f"line {line}: {name}", file=path, expected=fault.expected, found=shown)


def _find(tree: yaml.Node, path: tuple[str | int, ...]) -> tuple[int, yaml.Node, str]:
    """Line, value and name, as the file writes it, of what is at a path."""
    line, kind, names = 1, RecipeFile, []
    for number, key in enumerate(path):
        if isinstance(key, int):
            tree = tree.value[key]
            continue
        spelled = (key, *_old_names(type_at(kind, path[:number]), key))
        name, tree = next((k, v) for k, v in tree.value if k.value in spelled)
        line = name.start_mark.line + 1
        names.append(str(name.value))
    return line, tree, ".".join(names)


def _old_names(kind: Any, key: str) -> tuple[str, ...]:
    field = next(f for f in msgspec.structs.fields(kind) if f.encode_name == key)
    return tuple(field_metadata(kind, field.name).get("old_keys", ()))


def _renamed(raw: Any, kind: Any, path: Path) -> Any:
    """The values with earlier names of keys replaced by the present ones.

    Raises:
        FormatError: both names of one key.
    """
    kind = plain_type(kind)
    if get_origin(kind) is tuple and isinstance(raw, list):
        return [_renamed(item, get_args(kind)[0], path) for item in raw]
    if not (isinstance(kind, type) and issubclass(kind, Settings) and isinstance(raw, dict)):
        return raw
    new = dict(raw)
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        for old in _old_names(kind, name):
            if old in new and name in new:
                raise FormatError(f"{old} is another name of {name}: give one", file=path)
            if old in new:
                new[name] = new.pop(old)
        if name in new:
            new[name] = _renamed(new[name], field.type, path)
    return new


def _nulls(node: yaml.Node, kind: Any, where: str = "") -> Iterator[tuple[str, int]]:
    """Keys of a section without a value, with their lines."""
    kind = plain_type(kind)
    if not (isinstance(kind, type) and issubclass(kind, Settings)):
        return
    types = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        below = types.get(str(key.value), Any)
        if below is not Any and plain_type(below) is not Any:
            if value.tag == "tag:yaml.org,2002:null":
                yield f"{where}{key.value}", key.start_mark.line + 1
            yield from _nulls(value, below, f"{where}{key.value}.")


def _nearest(key: str, known: tuple[str, ...]) -> str | None:
    """The known key that was meant, one of this section's or a section of its own."""
    if hint := did_you_mean(key, known):
        return hint
    hint = did_you_mean(key, RecipeFile.__struct_fields__)
    return hint and f"{hint} It is a section of its own, at the left margin."


def _header_steps(sections: Mapping[str, Any], template: Template | None, path: Path) -> list[Step]:
    """Header edits and the chat template, as the operations that they are."""
    header = sections.get("header") or {}
    if not isinstance(header, dict):
        raise FormatError("header holds keys", file=path, expected="general.license: mit")
    steps = []
    for key, value in header.items():
        try:
            json.dumps(value)  # it becomes part of the file's recipe
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(
                f"header.{key} is not a plain value",
                file=path,
                found=str(error),
                expected="numbers, text, lists; put dates into quotes",
            ) from None
        if value is None:
            steps.append(Step("unset", (("key", str(key)),)))
        else:
            steps.append(Step("set", (("key", str(key)), ("value", value))))
    if template is not None:
        if (template.family is None) == (template.file is None):
            raise FormatError("template needs either family or file", file=path)
        source = _template(template)
        steps.append(
            Step("set", (("key", "tokenizer.chat_template"), ("value", source), ("type", "string")))
        )
    return steps


def _template(section: Template) -> str:
    from ..chat.families import family
    from ..chat.render import compile_template

    if section.family is not None:
        return family(section.family).jinja
    assert section.file is not None
    source = read_text(section.file, MAX_SMALL)
    compile_template(source)
    return source
